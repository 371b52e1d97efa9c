"""The program that is shipped: integer operations, compiled by whoever loads it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export

from compress.annotations import Array, PyTree
from compress.export.lower import integer_product
from compress.export.manifest import ArtifactError
from compress.export.pack import Packed
from compress.interpret import trace
from compress.sites import find_sites_in
from compress.transform import State, Transform, run_compressed

PLATFORMS = ("cpu", "cuda", "tpu")


def serving_function(
    forward: Callable[..., Any],
    transform: Transform,
    packed: Packed,
    params: PyTree,
    state: State,
) -> Callable[..., Any]:
    """`(weights, *inputs) -> outputs` on the shipped arrays, in integers.

    A model's state is among the weights, so that the program holds none of it.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    given = dict(transform.given(state.memory)) if transform.given else {}

    def serve(weights: dict[str, Array], *inputs: Array) -> Any:
        everything = (*packed.first_inputs(weights), *inputs)
        program = trace(forward, shapes, *everything)
        sites = find_sites_in(program, shapes)
        seen = packed.boxed(weights)
        outputs, _ = run_compressed(
            program,
            transform,
            sites,
            seen,
            given,
            state,
            everything,
            product=integer_product,
        )
        return outputs

    return serve


def export_program(
    serve: Callable[..., Any],
    packed: Packed,
    inputs: Sequence[jax.ShapeDtypeStruct],
    platforms: Sequence[str],
) -> jax.export.Exported:
    """Exports for inputs of these shapes, whose batch size may be symbolic.

    Raises:
      ArtifactError: If the forward pass asks how large a symbolic batch is.
    """
    weights = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype)
        for name, array in packed.weights.items()
    }
    export = jax.export.export(jax.jit(serve), platforms=list(platforms))
    try:
        return export(weights, *inputs)
    except jax.errors.InconclusiveDimensionOperation as error:
        raise ArtifactError(
            f"export: forward does not work for every batch size: {_first_line(error)} "
            "Let nothing in it depend on the size of the batch."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def with_batch(
    inputs: Sequence[Any], batch: int | str
) -> tuple[jax.ShapeDtypeStruct, ...]:
    """The inputs with another first axis; a string makes it symbolic."""
    size = jax.export.symbolic_shape(batch)[0] if isinstance(batch, str) else batch
    return tuple(jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype) for x in inputs)
