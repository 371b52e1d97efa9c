"""Makes the programs of an artifact again, from its weights and the model's code."""

import pathlib
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import compress.export.artifact as artifacts
from compress.annotations import PyTree
from compress.export.build import write_programs
from compress.export.golden import GOLDEN, check_golden
from compress.export.manifest import (
    ArtifactError,
    check_files,
    member,
    program_files,
    read_manifest,
    write_manifest,
)
from compress.export.pack import MODEL_STATE, Packed
from compress.export.place import new_artifact
from compress.export.scales import scaled_inputs, scales_of, with_scales
from compress.export.state import given_at_sites, read_state
from compress.export.taps import Model
from compress.export.verify import Difference
from compress.sites import flat_paths
from compress.transform import State, Transform, chain, init


def upgrade(
    path: str | pathlib.Path,
    forward: Callable[..., Any],
    params: PyTree,
    transform: Transform | None = None,
    *,
    model_state: PyTree | None = None,
) -> artifacts.Artifact:
    """Exports the programs of an artifact again, with the JAX that runs now.

    The weights stay byte for byte. The new programs must give the golden outputs that
    were stored at export; then the artifact is replaced, at once, else left as it was.

    Args:
      path: The artifact; its programs need not be readable.
      forward: The function that was exported.
      params: Its parameters; only their structure, shapes and dtypes matter.
      transform: The one it was exported with, built with the same settings.
      model_state: As `params`, where `forward` takes one.

    Returns:
      The new artifact, loaded.

    Raises:
      ArtifactError: If something else than a program is damaged, forward or transform
        do not fit the weights, or the golden outputs are not reproduced.
    """
    final = pathlib.Path(path).absolute()
    manifest = read_upgradable(final)
    forward = scaled_inputs(forward, scales_of(manifest["inputs"]))
    shapes, statistics = _shapes(params), _shapes(model_state)
    packed = read_packed(final, shapes, statistics)
    example = tuple(
        jax.ShapeDtypeStruct((1, *spec["shape"][1:]), jnp.dtype(spec["dtype"]))
        for spec in manifest["inputs"]
    )
    model = _model(final, manifest, forward, shapes, packed, transform, example)
    with new_artifact(final) as new:
        _refill(new, final, manifest, model, example)
        _check(final, new)
    return artifacts.load(final)


def read_upgradable(directory: pathlib.Path) -> dict[str, Any]:
    """The manifest, once all files but the programs are known to be intact.

    Raises:
      ArtifactError: If they are not, or an earlier version left some out.
    """
    manifest = read_manifest(directory)
    artifacts.check_platform(directory, manifest["platforms"])
    needed = [artifacts.WEIGHTS, GOLDEN]
    programs = program_files(manifest)
    check_files(directory, manifest, needed, ignored=programs)
    return manifest


def _shapes(tree: PyTree) -> PyTree:
    return jax.eval_shape(lambda x: x, tree)


def read_packed(directory: pathlib.Path, shapes: PyTree, statistics: PyTree) -> Packed:
    """The shipped weights as those of a model of these shapes.

    Raises:
      ArtifactError: If they are of another model.
    """
    weights = artifacts.read_weights(directory)
    state = {} if statistics is None else {MODEL_STATE: statistics}
    expected = _by_path(shapes) | _by_path(state)
    found = {n: x for n, x in weights.items() if not n.endswith(artifacts.SCALE)}
    for name in sorted({*expected, *found}):
        quantized = name + artifacts.SCALE in weights
        ours, theirs = (_kind(x.get(name), quantized) for x in (found, expected))
        if ours != theirs:
            raise ArtifactError(
                f'{directory}: "{name}" is {ours} there and {theirs} in the model '
                "given now. Give the model that was exported."
            )
    return Packed(
        weights,
        jax.tree.structure(shapes),
        tuple(_by_path(shapes)),
        {n: x.dtype for n, x in expected.items() if n + artifacts.SCALE in weights},
        None if statistics is None else jax.tree.structure(statistics),
        tuple(_by_path(state)),
    )


def _kind(array: Any, quantized: bool) -> str:
    """Shape and dtype; of a quantized weight the shape alone."""
    if array is None:
        return "absent"
    return f"{'' if quantized else array.dtype}{list(array.shape)}"


def _by_path(tree: PyTree) -> dict[str, Any]:
    return dict(zip(flat_paths(tree), jax.tree.leaves(tree), strict=True))


def _model(
    directory: pathlib.Path,
    manifest: dict[str, Any],
    forward: Callable[..., Any],
    shapes: PyTree,
    packed: Packed,
    transform: Transform | None,
    example: tuple[Any, ...],
) -> Model:
    """The model as it was exported, without its trained parameters."""
    first = _shapes(packed.first_inputs(jax.tree.map(jnp.asarray, packed.weights)))
    transform = chain() if transform is None else transform
    fresh = jax.eval_shape(partial(init, forward, transform), shapes, *first, *example)
    like = given_at_sites(transform, fresh)
    name = manifest.get("state")
    given = read_state(directory, name and member(directory, name), like)
    state = State(jnp.int32(manifest.get("step", 0)), ())
    # What sites are given is known; the rest of the state was for training.
    restored = transform._replace(given=lambda memory: given)
    return Model(forward, restored, shapes, state, packed, first)


def _refill(
    new: pathlib.Path,
    final: pathlib.Path,
    manifest: dict[str, Any],
    model: Model,
    example: tuple[Any, ...],
) -> None:
    """Writes the new programs beside copies of all other files."""
    programs = manifest["programs"]
    for name in manifest["files"].keys() - set(program_files(manifest)):
        shutil.copyfile(member(final, name), new / name)
    written = write_programs(
        new,
        model,
        example,
        manifest["platforms"],
        programs["static"]["batch"],
        manifest["lowering"]["mode"],
    )
    scales = scales_of(manifest["inputs"])
    written["inputs"] = with_scales(written["inputs"], scales)
    for key in ("inputs", "outputs"):
        if written[key] != manifest[key]:
            raise ArtifactError(
                f"{final}: forward has {key} {written[key]}, the artifact "
                f"{manifest[key]}. Give the function that was exported."
            )
    content = {**manifest, **written, "jax_version": jax.__version__}
    write_manifest(new, content)


def _check(final: pathlib.Path, new: pathlib.Path) -> None:
    """The new programs give what the trained model gave."""
    try:
        check_golden(artifacts.load(new))
    except Difference as error:
        raise ArtifactError(
            f"{final}: not upgraded. With this forward and transform, {error} Give "
            "those that were exported."
        ) from None
