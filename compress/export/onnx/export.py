"""Writes a compressed model as an ONNX file with integers where it has them."""

import importlib.util
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from compress.annotations import PyTree
from compress.export.build import check_batches, shipped_model
from compress.export.manifest import ArtifactError
from compress.export.onnx.emitter import as_plain
from compress.export.onnx.finish import fold_channels, give_weights, onnx_model
from compress.export.onnx.graph import Graph
from compress.export.onnx.tensor import Tensor, plain_tensor
from compress.export.onnx.walk import Walk, emitted
from compress.export.pack import Packed, site_schemes
from compress.export.program import any_batch, with_batch
from compress.export.shared import Shared
from compress.export.verify import verify
from compress.files import write_bytes
from compress.interpret import trace
from compress.sites import find_sites, find_sites_in, flat_paths, flatten_parameters
from compress.transform import State, Transform

# Items the file is run on before it is written: onnx's own evaluator is slow.
_ITEMS = 8


def export_onnx(
    path: str | pathlib.Path,
    forward: Callable[..., Any],
    params: PyTree,
    transform: Transform | None = None,
    state: State | None = None,
    *,
    batches: Sequence[Any],
    model_state: PyTree | None = None,
    tolerance: float = 2 / 127,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes an ONNX file that computes what the artifact of `export` computes.

    Quantized sites are `DequantizeLinear -> Conv / MatMul / Gemm` with int8 weights and
    uint8 activations, which runtimes turn into integer kernels. The first axis of
    inputs and outputs is `batch`, of any size. Before it gets its name the file is
    checked by onnx and run with onnx's own evaluator on the first items of `batches`.

    On x86 processors without VNNI, ONNX Runtime's kernels may overflow their 16-bit
    sums; set its session option `session.x64quantprecision` to "1" there.

    Args:
      path: The file to write, `model.onnx`.
      forward: As in `export`.
      params: The trained parameters.
      transform: What they were trained with; None exports in float.
      state: Of the transform.
      batches: Calibration data, one array or a tuple of arrays each.
      model_state: Arrays that are no parameters; constants of the file.
      tolerance: Largest difference allowed between file and trained forward, relative
        to the largest output; two steps of an int8 grid by default. A tie that is
        rounded the other way moves an integer by one, and later ones with it.
      overwrite: Whether a file already at `path` may be replaced.

    Returns:
      The path.

    Raises:
      ArtifactError: As `export` does.
      ImportError: If onnx is not installed.
      NotImplementedError: If an operation has no form in ONNX here; the message names
        it and the user's line.
    """
    final = pathlib.Path(path).absolute()
    _check_place(final, overwrite)
    _require_onnx()
    if (transform is None) != (state is None):
        raise TypeError("export_onnx: give both transform and state, or neither.")
    batches = [b if isinstance(b, tuple) else (b,) for b in batches]
    check_batches(batches, static_batch=1)
    batches = [tuple(jnp.asarray(x) for x in batch) for batch in batches]
    shared = Shared(forward, transform)
    shipped = shipped_model(shared, params, state, model_state, batches[0])
    model = build_model(
        forward, params, shipped.transform, shipped.state, shipped.packed, batches[0]
    )
    trained = shipped.trained(shared.trained)
    verify(
        _evaluator(model),
        lambda *x: list(jax.tree.leaves(trained(*x))),
        [tuple(x[:_ITEMS] for x in batches[0])],
        static_batch=1,
        tolerance=tolerance,
    )
    try:
        return write_bytes(final, model.SerializeToString())
    except OSError as error:
        raise ArtifactError(
            f"{final}: cannot be written ({error.strerror})."
        ) from error


def _check_place(final: pathlib.Path, overwrite: bool) -> None:
    if final.is_dir():
        raise ArtifactError(f"{final}: is a folder. Name a file in it.")
    if not final.parent.is_dir():
        raise ArtifactError(f"{final.parent}: is no folder. Make it first.")
    if final.exists() and not overwrite:
        raise ArtifactError(
            f"{final}: exists. Choose another path, or pass overwrite=True."
        )


def _require_onnx() -> None:
    if importlib.util.find_spec("onnx") is None:
        raise ImportError(
            "export_onnx needs onnx, which is not installed. Run "
            'pip install "jax-compress[onnx]".'
        )


def build_model(
    forward: Callable[..., Any],
    params: PyTree,
    transform: Transform,
    state: State,
    packed: Packed,
    example: Sequence[Any],
) -> Any:
    """The ONNX model of a packed one, for inputs like `example` of any batch size."""
    inputs = with_batch(example, "batch")
    weights = {name: jnp.asarray(array) for name, array in packed.weights.items()}
    state_inputs = packed.first_inputs(weights)
    with any_batch():
        program = trace(forward, params, *state_inputs, *inputs)
    sites = find_sites_in(program, params)
    given = dict(transform.given(state.memory)) if transform.given else {}
    by_name = {site.name: site for site in sites.weighted}
    tensors = {
        f"input_{index}": plain_tensor(f"input_{index}", x.shape, x.dtype)
        for index, x in enumerate(inputs)
    }
    graph = Graph(list(tensors), inputs[0].shape[0])

    def operands(name: str, given: Any, values: Sequence[Any]) -> Any:
        decide = transform.operands
        if decide is None:
            return values
        at_site = lambda values: decide(by_name[name], given, state.step, values)[0]  # noqa: E731
        return emitted(graph, at_site, values)

    walk = Walk(graph, {site.location: site.name for site in sites.weighted}, operands)
    _, leaves, _ = flatten_parameters(packed.boxed(weights))
    known = jax.tree.leaves(state_inputs)
    flat = walk.run(program, [*leaves, *known, *tensors.values()], given)
    outputs = _named_outputs(graph, program.out_tree, flat)
    fold_channels(graph, list(outputs))
    give_weights(graph)
    of_one = find_sites(forward, params, *state_inputs, *with_batch(example, 1))
    schemes = {"sites": site_schemes(of_one, packed, given), "step": int(state.step)}
    return onnx_model(graph, tensors, outputs, {"jax_compress": schemes})


def _named_outputs(graph: Graph, tree: Any, flat: Sequence[Any]) -> dict[str, Tensor]:
    """The outputs, stored as traced, under their paths in the result of forward."""
    paths = flat_paths(jax.tree.unflatten(tree, range(len(flat))))
    outputs = {}
    for path, value in zip(paths, flat, strict=True):
        x = as_plain(graph, value)
        name = f"output_{path.replace('/', '_')}" if path else "output_0"
        graph.rename(x.name, name)
        outputs[name] = x
    return outputs


def _evaluator(model: Any) -> Callable[..., Any]:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(model)

    def run(*inputs: Any) -> list[Any]:
        named = {f"input_{i}": np.asarray(x) for i, x in enumerate(inputs)}
        with np.errstate(all="ignore"):  # what is not finite in the end is refused
            return list(evaluator.run(None, named))

    return run
