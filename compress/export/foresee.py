"""How large an artifact will be, before anything is trained."""

import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from compress.annotations import PyTree
from compress.export.build import write_programs
from compress.export.pack import packed_shapes
from compress.export.state import given_at_sites
from compress.export.storage import file_bytes, stored_bytes
from compress.export.taps import Model
from compress.transform import State, Transform, init


class Sizes(NamedTuple):
    """Bytes of an artifact.

    Attributes:
      file: Of its weights file.
      dense: Of the arrays in it.
      programs: Of its programs.
    """

    file: int
    dense: int
    programs: int


def foreseen_sizes(
    forward: Callable[..., Any],
    params: PyTree,
    transform: Transform,
    *inputs: jax.ShapeDtypeStruct,
    step: int,
    model_state: PyTree | None,
    platforms: Sequence[str],
    static_batch: int,
    lowering: str,
) -> Sizes:
    """The sizes of what `export` would write.

    The programs are made as `export` makes them, from shapes. What a transform gives
    sites (ranges) is 1 in them.

    Args:
      forward: As in `export`.
      params: Only shapes matter.
      transform: The chain that is shipped.
      *inputs: Shapes of one batch.
      step: Updates done when it is shipped.
      model_state: Only shapes matter.
      platforms: As in `export`.
      static_batch: As in `export`.
      lowering: As in `export`.
    """
    first = () if model_state is None else (model_state,)

    def started(params: PyTree, *rest: Any) -> State:
        return init(forward, transform, params, *rest)

    state = jax.eval_shape(started, params, *first, *inputs)
    packed = packed_shapes(transform, params, state, model_state)
    given = jax.tree.map(
        lambda x: jnp.ones(x.shape, x.dtype),
        jax.eval_shape(lambda memory: given_at_sites(transform, memory), state),
    )
    known = transform._replace(given=lambda memory: given)
    model = Model(forward, known, params, State(jnp.int32(step), ()), packed, first)
    with tempfile.TemporaryDirectory() as folder:
        directory = pathlib.Path(folder)
        write_programs(directory, model, inputs, platforms, static_batch, lowering)
        programs = sum(file.stat().st_size for file in directory.iterdir())
    dense = sum(stored_bytes(array) for array in packed.weights.values())
    return Sizes(file_bytes(packed.weights), dense, programs)
