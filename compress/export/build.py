"""Exports a compressed model, and proves it equal to what was trained."""

import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

import compress.export.artifact as artifacts
from compress.annotations import PyTree
from compress.export.manifest import MANIFEST, ArtifactError, write_manifest
from compress.export.pack import Packed, pack, site_schemes
from compress.export.program import (
    PLATFORMS,
    export_program,
    serving_function,
    with_batch,
)
from compress.export.verify import check_ranges, verify
from compress.sites import Sites, find_sites
from compress.transform import (
    State,
    Transform,
    apply,
    chain,
    check,
    check_finite,
    init,
)

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
    tolerance: float = 1e-3,
    evaluate: Evaluate | None = None,
    metadata: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> artifacts.Artifact:
    """Writes an artifact and returns it, loaded again from disk.

    Both of its programs are compared with the trained forward on `batches` before it
    gets its name; on a difference nothing is left behind.

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
      tolerance: Largest difference allowed between artifact and trained forward,
        relative to the largest output.
      evaluate: Computes figures with the artifact, for the manifest.
      metadata: Anything JSON holds, for the manifest.
      overwrite: Whether an artifact already at `path` may be replaced.

    Raises:
      ArtifactError: If the artifact does not reproduce the trained forward,
        quantization has not started, a range was never calibrated, or `path` exists or
        cannot be written.
    """
    if (transform is None) != (state is None):
        raise TypeError("export: give both transform and state, or neither.")
    final = pathlib.Path(path).absolute()
    batches = [b if isinstance(b, tuple) else (b,) for b in batches]
    _check_place(final, overwrite)
    _check_platforms(final, platforms)
    _check_batches(batches, static_batch)
    batches = [tuple(jnp.asarray(x) for x in batch) for batch in batches]
    first = () if model_state is None else (model_state,)
    check_finite(params)
    if transform is None or state is None:
        transform = chain()
        state = init(forward, transform, params, *first, *batches[0])
    check(transform, params, state)
    check_ranges(transform, state)
    packed = pack(transform, params, state, model_state)
    serve = serving_function(forward, transform, packed, params, state)
    partial = final.with_name(f".{final.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        written = _write(partial, serve, packed, batches[0], platforms, static_batch)
        sites = find_sites(forward, params, *first, *with_batch(batches[0], 1))
        content = {**_describe(transform, state, sites, packed), **written}
        write_manifest(partial, content)
        loaded = artifacts.load(partial)
        trained = jax.jit(apply(forward, transform))
        content["verification"] = verify(
            loaded,
            lambda *x: trained(params, state, *first, *x),
            batches,
            static_batch=static_batch,
            tolerance=tolerance,
        )
        content["figures"] = evaluate(loaded) if evaluate else {}
        content["metadata"] = metadata or {}
        write_manifest(partial, content)
        _rename(partial, final)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArtifactError(f"{final}: cannot be written ({reason}).") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return artifacts.load(final)


def _check_place(final: pathlib.Path, overwrite: bool) -> None:
    if not final.exists():
        return
    if not overwrite:
        raise ArtifactError(
            f"{final}: exists. Choose another path, or pass overwrite=True."
        )
    if not (final / MANIFEST).is_file():
        raise ArtifactError(
            f"{final}: is not an artifact, so it is not replaced. Choose another path, "
            "or remove it."
        )


def _check_platforms(final: pathlib.Path, platforms: Sequence[str]) -> None:
    unknown = sorted(set(platforms) - set(PLATFORMS))
    if unknown or not platforms:
        raise ArtifactError(f"export: platforms={platforms} must be of {PLATFORMS}.")
    artifacts.check_platform(final, platforms)  # it is run here, to be compared


def _check_batches(batches: Sequence[tuple[Any, ...]], static_batch: int) -> None:
    if static_batch < 1:
        raise ArtifactError(f"export: static_batch={static_batch} must be at least 1.")
    if not batches:
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


def _describe(
    transform: Transform, state: State, sites: Sites, packed: Packed
) -> dict[str, Any]:
    """What the manifest says of how the model was compressed."""
    given = dict(transform.given(state.memory)) if transform.given else {}
    return {
        "jax_version": jax.__version__,
        "transform": transform.name,
        "step": int(state.step),
        "sites": site_schemes(sites, packed, given),
    }


def _write(
    directory: pathlib.Path,
    serve: Callable[..., Any],
    packed: Packed,
    example: tuple[Any, ...],
    platforms: Sequence[str],
    static_batch: int,
) -> dict[str, Any]:
    """Writes weights and programs; returns what the manifest says of them."""
    save_file(packed.weights, directory / artifacts.WEIGHTS)
    programs, outputs = {}, []
    for name, batch in (("static", static_batch), ("symbolic", "batch")):
        inputs = with_batch(example, batch)
        exported = export_program(serve, packed, inputs, platforms)
        file = f"program_{name}.stablehlo"
        (directory / file).write_bytes(exported.serialize())
        programs[name] = {"file": file, "batch": batch}
        outputs = [_spec(aval) for aval in exported.out_avals]
    return {
        "platforms": list(platforms),
        "programs": programs,
        "inputs": [_spec(x) for x in with_batch(example, "batch")],
        "outputs": outputs,
        "sizes": _sizes(packed),
    }


def _spec(x: Any) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else str(size) for size in x.shape]
    return {"shape": shape, "dtype": str(x.dtype)}


def _sizes(packed: Packed) -> dict[str, int]:
    """Bytes of the arrays as shipped, and as the float32 arrays they were."""
    arrays = packed.weights
    trained = (*packed.paths, *packed.state_paths)
    return {
        "weights": sum(array.nbytes for array in arrays.values()),
        "float32": sum(4 * arrays[path].size for path in trained),
        "parameters": sum(int(arrays[path].size) for path in packed.paths),
    }


def _rename(partial: pathlib.Path, final: pathlib.Path) -> None:
    if final.exists():
        old = final.with_name(f".{final.name}.replaced-{os.getpid()}")
        final.rename(old)
        try:
            partial.rename(final)
        except OSError:
            old.rename(final)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        partial.rename(final)
