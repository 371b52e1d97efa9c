"""The programs that are shipped: integer operations, compiled by whoever loads them."""

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax
import jax.export

from compress.annotations import Array, PyTree
from compress.export.exported import Exported
from compress.export.lower import Lowering
from compress.export.manifest import ArtifactError
from compress.export.pack import Packed
from compress.interpret import split, trace
from compress.sites import find_sites_in
from compress.transform import State, Tap, Transform, run_compressed

PLATFORMS = ("cpu", "cuda", "tpu")


def serving_function(
    forward: Callable[..., Any],
    transform: Transform,
    packed: Packed,
    params: PyTree,
    state: State,
    lowering: Lowering,
    tap: Tap | None = None,
) -> Callable[..., Any]:
    """`(weights, *inputs) -> outputs` on the shipped arrays, in integers.

    A model's state is among the weights, so that the program holds none of it. With a
    `tap` the outputs come with what it collected, by site.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    given = dict(transform.given(state.memory)) if transform.given else {}

    def serve(weights: Mapping[str, Array], *inputs: Array) -> Any:
        everything = (*packed.first_inputs(weights), *inputs)
        program = trace(forward, shapes, *everything)
        outputs, collected = run_compressed(
            program,
            transform,
            find_sites_in(program, shapes),
            packed.boxed(weights),
            given,
            state,
            everything,
            product=lowering.product,
            tap=tap,
            shifted=lowering.mode != "plain",
        )
        return outputs if tap is None else (outputs, collected)

    return serve


def export_program(
    serve: Callable[..., Any],
    packed: Packed,
    inputs: Sequence[jax.ShapeDtypeStruct],
    platforms: Sequence[str],
) -> Exported:
    """Exports for inputs of these shapes, whose batch size may be symbolic.

    Raises:
      ArtifactError: If the forward pass asks how large a symbolic batch is.
    """
    weights = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype)
        for name, array in packed.weights.items()
    }
    with any_batch():
        program = trace(serve, weights, *inputs)
    halves = split(program, len(weights))

    def prepare(weights: Mapping[str, Array]) -> list[Array]:
        return halves.prepare(*jax.tree.leaves(weights))

    def run(kept: Sequence[Array], *inputs: Array) -> Any:
        return jax.tree.unflatten(program.out_tree, halves.run(kept, *inputs))

    kept = jax.eval_shape(prepare, weights)
    return Exported(
        _export(prepare, platforms)(weights), _export(run, platforms)(kept, *inputs)
    )


@contextlib.contextmanager
def any_batch() -> Generator[None]:
    """Says what is wrong when a forward pass asks how large a symbolic batch is."""
    try:
        yield
    except jax.errors.InconclusiveDimensionOperation as error:
        raise ArtifactError(
            f"export: forward does not work for every batch size: {_first_line(error)} "
            "Let nothing in it depend on the size of the batch."
        ) from error


def _export(function: Callable[..., Any], platforms: Sequence[str]) -> Any:
    return jax.export.export(jax.jit(function), platforms=list(platforms))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def with_batch(
    inputs: Sequence[Any], batch: int | str
) -> tuple[jax.ShapeDtypeStruct, ...]:
    """The inputs with another first axis; a string makes it symbolic."""
    size = jax.export.symbolic_shape(batch)[0] if isinstance(batch, str) else batch
    return tuple(jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype) for x in inputs)
