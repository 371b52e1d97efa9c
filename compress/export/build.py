"""Exports a compressed model, and proves it equal to what was trained."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import compress.export.artifact as artifacts
from compress.annotations import PyTree
from compress.export.chunks import chunk_size, items_are_independent
from compress.export.golden import GOLDEN, golden_inputs, write_golden
from compress.export.lower import Lowering
from compress.export.manifest import ArtifactError, meaning_problem, write_manifest
from compress.export.pack import Packed, pack, site_schemes
from compress.export.place import check_place, new_artifact
from compress.export.program import (
    PLATFORMS,
    export_program,
    serving_function,
    with_batch,
)
from compress.export.scales import Scales, check_scales, scaled_inputs, with_scales
from compress.export.shared import Shared
from compress.export.state import given_at_sites, write_state
from compress.export.storage import stored_bytes, write_arrays
from compress.export.taps import Model, parting_site
from compress.export.verify import Difference, check_ranges, verify
from compress.files import write_json
from compress.machine import describe_machine
from compress.sites import Sites, find_sites
from compress.transform import (
    State,
    Transform,
    check,
    check_finite,
    init,
)

CONFIG = "config.json"
# evaluate(artifact) -> figures for the manifest.
Evaluate = Callable[[artifacts.Artifact], dict[str, Any]]


def export(
    path: str | pathlib.Path,
    forward: Callable[..., Any],
    params: PyTree,
    transform: Transform | None = None,
    state: State | None = None,
    *,
    batches: Sequence[Any],
    model_state: PyTree | None = None,
    platforms: Sequence[str] = PLATFORMS,
    static_batch: int = 1,
    lowering: str = "fastest",
    tolerance: float = 1e-3,
    classifies: bool = True,
    classes: Sequence[str] | None = None,
    sample_rate: int | None = None,
    input_scales: Scales | None = None,
    evaluate: Evaluate | None = None,
    config: Mapping[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    overwrite: bool = False,
    shared: Shared | None = None,
) -> artifacts.Artifact:
    """Writes an artifact and returns it, loaded again from disk.

    Both of its programs are compared with the trained forward on `batches` before it
    gets its name; on a difference nothing is left behind. A few of these inputs stay
    in it with the trained outputs, for `jax-compress verify`.

    Args:
      path: The directory to make.
      forward: `(params, *inputs) -> outputs`, each input an array with a leading batch
        axis; with a `model_state`, `(params, model_state, *inputs) -> outputs`.
      params: The trained parameters.
      transform: What they were trained with; None exports in float.
      state: Of the transform.
      batches: Calibration data, one array or a tuple of arrays each.
      model_state: Arrays that are no parameters, such as batch statistics: shipped
        with the weights as they are, never quantized. What `forward` closes over
        instead ends up inside the programs, where no size counts it.
      platforms: Of `cpu`, `cuda`, `tpu`.
      static_batch: The batch size with a program of its own, besides the free one.
      lowering: How integers are multiplied, in numbers always the same: `fastest`, by
        rules known to be fast; `measured`, by what is fastest on this machine; `plain`,
        by the operations as they stand in the model.
      tolerance: Largest difference allowed between artifact and trained forward,
        relative to the largest output.
      classifies: Whether the last axis of the outputs holds scores of classes: then
        artifact and trained forward must choose the same one everywhere. False for
        embeddings and other numbers.
      classes: What the scores are of, by name, for whoever uses the artifact.
      sample_rate: Samples per second, if the input is sound `[batch, samples]`, int16
        or float32 in [-1, 1).
      input_scales: For each input the size of one integer step, or None. An input with
        a scale comes as the integers that `batches` hold, uint8 pixels for example;
        `forward` gets `integer * scale` in float32, computed inside the artifact.
      evaluate: Computes figures with the artifact, for the manifest.
      config: The resolved config of the run, kept as `config.json`: with it
        `jax-compress upgrade` and `bench` find the model again.
      metadata: Anything JSON holds, for the manifest.
      overwrite: Whether an artifact already at `path` may be replaced.
      shared: Of this `forward` and `transform`, for several exports that differ in
        their numbers: what they have in common is compiled once.

    Raises:
      ArtifactError: If the artifact does not reproduce the trained forward (it names
        the site where they part), quantization has not started, a range was never
        calibrated, or `path` exists or cannot be written.
    """
    if (transform is None) != (state is None):
        raise TypeError("export: give both transform and state, or neither.")
    final = pathlib.Path(path).absolute()
    batches = [b if isinstance(b, tuple) else (b,) for b in batches]
    check_place(final, overwrite)
    _check_platforms(final, platforms)
    Lowering(lowering)  # refuses an unknown mode
    check_batches(batches, static_batch)
    batches = [tuple(jnp.asarray(x) for x in batch) for batch in batches]
    scales = [None] * len(batches[0]) if input_scales is None else input_scales
    check_scales(scales, batches)
    forward = scaled_inputs(forward, scales)
    shared = _checked(shared, forward, transform)
    model = shipped_model(shared, params, state, model_state, batches[0])
    trained = model.trained(shared.trained)
    meaning = {"classes": classes and list(classes), "sample_rate": sample_rate}
    with new_artifact(final) as partial:
        content = _write(partial, model, batches[0], platforms, static_batch, lowering)
        content["inputs"] = with_scales(content["inputs"], scales)
        content |= {key: x for key, x in meaning.items() if x is not None}
        _check_meaning(content)
        content["lowering"]["chunk"] = _chunk(model, trained, batches[0], lowering)
        content["config"] = _write_config(partial, config)
        content = {key: value for key, value in content.items() if value is not None}
        loaded = _prove(
            partial, content, model, trained, batches, tolerance, classifies
        )
        content["figures"] = evaluate(loaded) if evaluate else {}
        content["metadata"] = metadata or {}
        write_manifest(partial, content)
    return artifacts.load(final)


def _checked(
    shared: Shared | None, forward: Callable[..., Any], transform: Transform | None
) -> Shared:
    if shared is None:
        return Shared(forward, transform)
    if shared.forward is not forward or shared.transform is not transform:
        raise ValueError(
            "export: shared is of another forward or transform. Give what it was made "
            "with, or leave it out."
        )
    return shared


def _check_meaning(content: Mapping[str, Any]) -> None:
    problem = meaning_problem(content)
    if problem is not None:
        raise ArtifactError(f"export: {problem}.")


def shipped_model(
    shared: Shared,
    params: PyTree,
    state: State | None,
    model_state: PyTree | None,
    example: tuple[Any, ...],
) -> Model:
    """The model with the numbers that are shipped; refuses what is not ready."""
    first = () if model_state is None else (model_state,)
    check_finite(params)
    forward, transform = shared.forward, shared.transform
    if state is None:
        state = init(forward, transform, params, *first, *example)
    seen = shared.seen(params, state)
    check(transform, params, state, seen)
    check_ranges(transform, state)
    packed = pack(params, seen, int(state.step), model_state)
    return Model(forward, transform, params, state, packed, first)


def _chunk(
    model: Model, trained: Callable[..., Any], inputs: tuple[Any, ...], lowering: str
) -> int | None:
    """How many items a CPU should run at a time; None if the whole batch."""
    one = with_batch(inputs, 1)
    sites = find_sites(model.forward, model.params, *model.first, *one)
    chunk = None if lowering == "plain" else chunk_size(sites)
    return chunk if chunk and items_are_independent(trained, inputs) else None


def _prove(
    partial: pathlib.Path,
    content: dict[str, Any],
    model: Model,
    trained: Callable[..., Any],
    batches: Sequence[tuple[Any, ...]],
    tolerance: float,
    classifies: bool,
) -> artifacts.Artifact:
    """Compares what was written with what was trained; adds it to the manifest."""
    static_batch = content["programs"]["static"]["batch"]
    mode = content["lowering"]["mode"]
    write_manifest(partial, content)
    loaded = artifacts.load(partial)
    golden = golden_inputs(batches[0], static_batch)
    others = [g for g in golden.values() if not any(g is b for b in batches)]
    try:
        content["verification"] = verify(
            loaded,
            trained,
            [*batches, *others],
            static_batch=static_batch,
            tolerance=tolerance,
            classifies=classifies,
        )
    except Difference as error:
        where = parting_site(model, error.inputs, Lowering(mode))
        raise ArtifactError(f"export: {error} {where} Nothing was written.") from None
    write_golden(partial, golden, trained)
    content["golden"] = GOLDEN
    return loaded


def _check_platforms(final: pathlib.Path, platforms: Sequence[str]) -> None:
    unknown = sorted(set(platforms) - set(PLATFORMS))
    if unknown or not platforms:
        raise ArtifactError(f"export: platforms={platforms} must be of {PLATFORMS}.")
    artifacts.check_platform(final, platforms)  # it is run here, to be compared


def check_batches(batches: Sequence[tuple[Any, ...]], static_batch: int) -> None:
    """Refuses batches that no program could be compared on."""
    if static_batch < 1:
        raise ArtifactError(f"export: static_batch={static_batch} must be at least 1.")
    if not batches or not batches[0]:
        raise ArtifactError(
            "export: batches is empty. Give some training data to compare the artifact "
            "with the trained forward on."
        )
    for index, x in enumerate(batches[0]):
        if not hasattr(x, "shape") or np.ndim(x) < 1:
            raise ArtifactError(
                f"export: input {index} is {type(x).__name__}, not an array with a "
                "leading batch axis. Wrap forward in a function of such arrays."
            )
    signature = [_of_one(x) for x in batches[0]]
    for index, batch in enumerate(batches):
        if [_of_one(x) for x in batch] != signature or any(len(x) == 0 for x in batch):
            found = ", ".join(f"{x.dtype}{list(x.shape)}" for x in batch)
            raise ArtifactError(
                f"export: batch {index} holds {found}. Give batches of at least one "
                "item that differ from batch 0 in their first axis only."
            )


def _of_one(x: Any) -> Any:
    """Shape and dtype of one item of a batch."""
    return tuple(x.shape[1:]), x.dtype


def _describe(model: Model, sites: Sites) -> dict[str, Any]:
    """What the manifest says of how the model was compressed."""
    given = given_at_sites(model.transform, model.state)
    return {
        "jax_version": jax.__version__,
        "transform": model.transform.name,
        "step": int(model.state.step),
        "sites": site_schemes(sites, model.packed, given),
    }


def _write(
    directory: pathlib.Path,
    model: Model,
    example: tuple[Any, ...],
    platforms: Sequence[str],
    static_batch: int,
    lowering: str,
) -> dict[str, Any]:
    """Writes weights, state and programs; returns what the manifest says of them."""
    given = given_at_sites(model.transform, model.state)
    one = with_batch(example, 1)
    sites = find_sites(model.forward, model.params, *model.first, *one)
    write_arrays(directory / artifacts.WEIGHTS, model.packed.weights)
    return {
        **_describe(model, sites),
        **write_programs(directory, model, example, platforms, static_batch, lowering),
        "state": write_state(directory, given),
        "sizes": _sizes(model.packed),
    }


def write_programs(
    directory: pathlib.Path,
    model: Model,
    example: tuple[Any, ...],
    platforms: Sequence[str],
    static_batch: int,
    lowering: str,
) -> dict[str, Any]:
    """Writes both programs; returns what the manifest says of them.

    Args:
      directory: Gets the files.
      model: Of `params` only shapes matter.
      example: Inputs; their first axis does not matter.
      platforms: Of `cpu`, `cuda`, `tpu`.
      static_batch: Of the program with a fixed batch size.
      lowering: Of `MODES`.
    """
    forward, transform, params, state, packed, _ = model
    programs, outputs = {}, []
    for name, batch in (("static", static_batch), ("symbolic", "batch")):
        chosen = Lowering(lowering)
        serve = serving_function(forward, transform, packed, params, state, chosen)
        inputs = with_batch(example, batch)
        exported = export_program(serve, packed, inputs, platforms)
        programs[name] = {
            "batch": batch,
            "prepare": _write_program(directory, f"prepare_{name}", exported.prepare),
            "file": _write_program(directory, f"program_{name}", exported.run),
            "lowering": chosen.records(),
        }
        outputs = [_spec(aval) for aval in exported.run.out_avals]
    return {
        "platforms": list(platforms),
        "programs": programs,
        "lowering": {"mode": lowering, "machine": describe_machine()},
        "inputs": [_spec(x) for x in with_batch(example, "batch")],
        "outputs": outputs,
    }


def _write_program(directory: pathlib.Path, name: str, program: Any) -> str:
    """Writes one program; returns the file's name."""
    file = f"{name}.stablehlo"
    (directory / file).write_bytes(program.serialize())
    return file


def _write_config(
    directory: pathlib.Path, config: Mapping[str, Any] | None
) -> str | None:
    """Writes the config; returns the file's name, if there is one."""
    if config is None:
        return None
    write_json(directory / CONFIG, dict(config))
    return CONFIG


def _spec(x: Any) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else str(size) for size in x.shape]
    return {"shape": shape, "dtype": str(x.dtype)}


def _sizes(packed: Packed) -> dict[str, int]:
    """Bytes of the arrays as shipped, and as the float32 arrays they were."""
    arrays = packed.weights
    trained = (*packed.paths, *packed.state_paths)
    return {
        "weights": sum(stored_bytes(array) for array in arrays.values()),
        "float32": sum(4 * arrays[path].size for path in trained),
        "parameters": sum(int(arrays[path].size) for path in packed.paths),
    }
