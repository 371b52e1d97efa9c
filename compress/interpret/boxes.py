"""Values that stand for an array: a quantized tensor on its way to a site.

A box passes through operations that only move elements (transpose, reshape, slice,
...); any other operation sees the real values it stands for.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import primitives

from compress.annotations import Array, Num
from compress.interpret.program import (
    Equation,
    all_gather_p,
    bind,
    shape_of,
    split_p,
    varying_p,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantized:
    """`real = qvalue * scale`, both still apart.

    Attributes:
      qvalue: Integers, carried in int8 or, in training, in a float dtype.
      scale: Of the same rank; size 1 along axes that share one scale.
      dtype: What the real values are, for whoever opens the box.
      bits: Width of the integers.
    """

    qvalue: Num[Array, "..."]
    scale: Num[Array, "..."]
    dtype: Any = dataclasses.field(metadata={"static": True}, default=jnp.float32)
    bits: int = dataclasses.field(metadata={"static": True}, default=8)

    def dequantize(self) -> Num[Array, "..."]:
        """The real values."""
        scale = self.scale
        return (self.qvalue.astype(scale.dtype) * scale).astype(self.dtype)


def unshare(box: Quantized, axis: int) -> Quantized:
    """The box with its scale written out along `axis`, so that it can be sliced."""
    shape = list(box.scale.shape)
    shape[axis] = box.qvalue.shape[axis]
    return dataclasses.replace(box, scale=jnp.broadcast_to(box.scale, shape))


def unbox(value: Any) -> Any:
    """The array a value stands for."""
    return value.dequantize() if isinstance(value, Quantized) else value


def _same_move(equation: Equation, scale: Array, shape: Any) -> Array:
    return bind(equation, [scale])[0]


def _broadcast_in_dim(equation: Equation, scale: Array, shape: Any) -> Array:
    sizes = [1] * len(equation.params["shape"])
    for axis, target in enumerate(equation.params["broadcast_dimensions"]):
        sizes[target] = scale.shape[axis]
    return scale.reshape(sizes)


def _slice(equation: Equation, scale: Array, shape: Any) -> Array:
    params = equation.params
    strides = params["strides"] or (1,) * scale.ndim
    picks = [
        slice(None) if size == 1 else slice(start, stop, stride)
        for size, start, stop, stride in zip(
            scale.shape, params["start_indices"], params["limit_indices"], strides
        )
    ]
    return scale[tuple(picks)]


def reshape_blocks(
    old: Sequence[Any], new: Sequence[Any]
) -> list[tuple[list[int], list[int]]]:
    """Splits a reshape into the smallest independent ones, as axes of each side.

    Sizes may be symbolic: in an export, that of the batch is no `int`.
    """
    if 0 in old:
        return [(list(range(len(old))), list(range(len(new))))]
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = [i] if i < len(old) else [], [j] if j < len(new) else []
        a = old[i] if left else 1
        b = new[j] if right else 1
        i, j = i + len(left), j + len(right)
        while a != b:
            if a < b:
                a, left, i = a * old[i], [*left, i], i + 1
            else:
                b, right, j = b * new[j], [*right, j], j + 1
        blocks.append((left, right))
    return blocks


def _reshape(equation: Equation, scale: Array, shape: Any) -> Array:
    """Scales shared by a whole block stay shared; mixed blocks are written out."""
    new, order = equation.params["new_sizes"], equation.params["dimensions"]
    if order is not None:
        scale, shape = scale.transpose(order), [shape[axis] for axis in order]
    full, sizes = list(scale.shape), [1] * len(new)
    for left, right in reshape_blocks(shape, new):
        if any(scale.shape[axis] != 1 for axis in left):
            for axis in left:
                full[axis] = shape[axis]
            for axis in right:
                sizes[axis] = new[axis]
    return jnp.broadcast_to(scale, full).reshape(sizes)


_MOVES: dict[Any, Callable[[Equation, Array, Any], Array]] = {
    primitives.transpose_p: _same_move,
    primitives.rev_p: _same_move,
    primitives.squeeze_p: _same_move,
    primitives.reshape_p: _reshape,
    primitives.broadcast_in_dim_p: _broadcast_in_dim,
    primitives.slice_p: _slice,
}
# Operations that leave every element as and where it is.
UNCHANGED = (
    primitives.copy_p,
    primitives.stop_gradient_p,
    primitives.name_p,
)


def pass_through(
    equation: Equation, operands: Sequence[Any]
) -> Sequence[Quantized] | None:
    """The boxes that come out of an operation that only moves elements, or None."""
    box = operands[0] if operands else None
    if isinstance(box, Quantized) and equation.primitive is split_p:
        return _split(equation, box)
    moved = _moved(equation, operands)
    return None if moved is None else [moved]


def _moved(equation: Equation, operands: Sequence[Any]) -> Quantized | None:
    box = operands[0] if operands else None
    if not isinstance(box, Quantized):
        return _scaled(equation, operands)
    if equation.primitive in _MOVES and len(operands) == 1:
        move = _MOVES[equation.primitive]
        scale = move(equation, box.scale, np.shape(box.qvalue))
        qvalue = bind(equation, [box.qvalue])[0]
        return dataclasses.replace(box, qvalue=qvalue, scale=scale)
    if equation.primitive in UNCHANGED:
        return box
    if equation.primitive is primitives.sharding_constraint_p:
        # The scale is small and wanted everywhere.
        return dataclasses.replace(box, qvalue=bind(equation, [box.qvalue])[0])
    if equation.primitive is varying_p:
        qvalue, scale = (bind(equation, [x])[0] for x in (box.qvalue, box.scale))
        return dataclasses.replace(box, qvalue=qvalue, scale=scale)
    if joins_shards(equation):
        return _gather_shards(equation, box)
    if equation.primitive is primitives.dynamic_slice_p:
        return _dynamic_slice(equation, box, operands[1:])
    if equation.primitive is primitives.convert_element_type_p:
        return _convert(equation, box)
    return _scaled(equation, operands)


def _split(equation: Equation, box: Quantized) -> list[Quantized]:
    qvalues = bind(equation, [box.qvalue])
    scales = [box.scale] * len(qvalues)
    if box.scale.shape[equation.params["axis"]] != 1:
        scales = bind(equation, [box.scale])
    return [
        dataclasses.replace(box, qvalue=q, scale=scale)
        for q, scale in zip(qvalues, scales)
    ]


def _convert(equation: Equation, box: Quantized) -> Quantized | None:
    """Between floating dtypes the integers stay; to others the values are needed."""
    new_dtype = equation.params["new_dtype"]
    if not jnp.issubdtype(new_dtype, jnp.floating):
        return None
    return dataclasses.replace(box, dtype=new_dtype)


def _dynamic_slice(
    equation: Equation, box: Quantized, starts: Sequence[Any]
) -> Quantized:
    sizes = equation.params["slice_sizes"]
    shared = [size == 1 for size in box.scale.shape]
    scale = jax.lax.dynamic_slice(
        box.scale,
        [jnp.zeros_like(i) if one else i for one, i in zip(shared, starts)],
        [1 if one else size for one, size in zip(shared, sizes)],
    )
    qvalue = bind(equation, [box.qvalue, *starts])[0]
    return dataclasses.replace(box, qvalue=qvalue, scale=scale)


def joins_shards(equation: Equation) -> bool:
    """Whether it puts the parts of an axis that devices hold together again."""
    return equation.primitive is all_gather_p and equation.params["tiled"]


def _gather_shards(equation: Equation, box: Quantized) -> Quantized:
    """A scale shared along the gathered axis is the same on every device."""
    shared = box.scale.shape[equation.params["all_gather_dimension"]] == 1
    scale = box.scale if shared else bind(equation, [box.scale])[0]
    return dataclasses.replace(box, qvalue=bind(equation, [box.qvalue])[0], scale=scale)


def scaled_operands(equation: Equation) -> list[int]:
    """The operands that come out negated, or times or over a single number."""
    if equation.primitive is primitives.neg_p:
        return [0]
    sides = {primitives.mul_p: [0, 1], primitives.div_p: [0]}
    others = [(i, equation.invars[1 - i]) for i in sides.get(equation.primitive, [])]
    return [i for i, other in others if math.prod(shape_of(other)) == 1]


def _scaled(equation: Equation, operands: Sequence[Any]) -> Quantized | None:
    """A box times or over one number, or negated: the same integers, another scale."""
    for side in scaled_operands(equation):
        box = operands[side]
        if isinstance(box, Quantized):
            return _rescaled(equation, box, side, operands)
    return None


def _rescaled(
    equation: Equation, box: Quantized, side: int, operands: Sequence[Any]
) -> Quantized:
    if equation.primitive is primitives.neg_p:
        return dataclasses.replace(box, scale=-box.scale)
    factor = jnp.asarray(unbox(operands[1 - side]), box.scale.dtype).reshape(())
    over = equation.primitive is primitives.div_p
    scale = box.scale / factor if over else box.scale * factor
    return dataclasses.replace(box, scale=scale)
