"""Computes one contraction whose operands may be quantized.

`sum_k x_k w_k = s_x s_w * sum_k q_x q_w` with scales that do not vary along k: the
integers meet in the contraction, the scales in one multiplication after it. Source:
Jacob et al. 2018, section 2.2, symmetric. https://arxiv.org/abs/1712.05877
In training the integers are carried in floating point, where float32 holds every
partial sum below 2**24 exactly (always so up to 1,040 products of int8, and in practice
far beyond), so the served integers reproduce the trained forward.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend.core import primitives

from compress.annotations import Array, Num
from compress.interpret.boxes import Quantized
from compress.interpret.depthwise import depthwise, is_depthwise
from compress.interpret.program import Equation, dtype_of, ragged_dot_p

# product(equation, lhs, rhs, *others) -> the exact contraction of two integer operands;
# a ragged_dot has a third operand, the sizes of its groups.
Product = Callable[..., Array]


def multiply(
    equation: Equation, lhs: Array, rhs: Array, dtype: Any, *others: Array
) -> Array:
    """The contraction of two arrays, accumulated in `dtype`."""
    params = {**equation.params, "preferred_element_type": jnp.dtype(dtype)}
    return equation.primitive.bind(lhs, rhs, *others, **params)


def float_product(equation: Equation, lhs: Array, rhs: Array, *others: Array) -> Array:
    """The contraction of integers carried in floating point."""
    if is_depthwise(equation, lhs, rhs):
        return depthwise(equation, lhs, rhs)
    return multiply(equation, lhs, rhs, jnp.float32, *others)


def contract(
    equation: Equation,
    operands: Sequence[Any],
    product: Product = float_product,
    *,
    shifted: bool = False,
) -> Array:
    """The result of a contraction, in the dtype it was traced with.

    Args:
      equation: A `dot_general`, `conv_general_dilated` or `ragged_dot`.
      operands: Its operands; the first two may be `Quantized`.
      product: Computes the contraction of the integers.
      shifted: Whether depthwise convolutions in float32 become sums of shifted inputs
        too: much faster on CPU, and rounded otherwise than as traced.
    """
    out_dtype = dtype_of(equation.outvars[0])
    if not any(isinstance(x, Quantized) for x in operands):
        if shifted and is_depthwise(equation, *operands[:2]):
            return depthwise(equation, *operands).astype(out_dtype)
        return equation.primitive.bind(*operands, **equation.params)
    factors, others = operands[:2], operands[2:]
    lhs, rhs = (_carried(x, factors) for x in factors)
    both = all(isinstance(x, Quantized) for x in factors)
    total = (product if both else float_product)(equation, lhs, rhs, *others)
    rank = total.ndim
    factor = jnp.ones((1,) * rank, jnp.float32)
    for side, operand in enumerate(factors):
        if isinstance(operand, Quantized):
            scale = _each_row(equation, side, operand.scale, others, total.shape)
            factor = factor * scale_of_output(equation, side, scale, rank)
    return (total.astype(jnp.float32) * factor).astype(out_dtype)


def _carried(operand: Any, operands: Sequence[Any]) -> Array:
    """Integers as they are; weight-only integers in the other side's dtype."""
    if not isinstance(operand, Quantized):
        return operand
    others = [x for x in operands if not isinstance(x, Quantized)]
    if not others:
        return operand.qvalue
    return operand.qvalue.astype(others[0].dtype)


def scale_of_output(
    equation: Equation, side: int, scale: Array, rank: int
) -> Num[Array, "..."]:
    """Lays the scale of one operand out along the axes of the result.

    Args:
      equation: The contraction.
      side: 0 for the left operand, 1 for the right.
      scale: Size 1 along contracted axes.
      rank: Of the result.

    Returns:
      The scale with `rank` axes, to be multiplied with the result.
    """
    if equation.primitive is primitives.conv_general_dilated_p:
        return _scale_of_convolution(equation, side, scale, rank)
    if equation.primitive is ragged_dot_p:
        return scale
    contracting, batch = equation.params["dimension_numbers"]
    kept = [*batch[side]]
    kept += [a for a in range(scale.ndim) if a not in {*contracting[side], *kept}]
    aligned = scale.transpose([*kept, *contracting[side]])
    sizes = [aligned.shape[axis] for axis in range(len(kept))]
    num_batch = len(batch[side])
    num_other = rank - len(kept)
    if side == 0:
        return aligned.reshape([*sizes, *[1] * num_other])
    return aligned.reshape([*sizes[:num_batch], *[1] * num_other, *sizes[num_batch:]])


def _scale_of_convolution(
    equation: Equation, side: int, scale: Array, rank: int
) -> Array:
    """Rows (side 0) may have a scale each, and output features (side 1)."""
    numbers = equation.params["dimension_numbers"]
    spec = numbers.lhs_spec if side == 0 else numbers.rhs_spec
    sizes = [1] * rank
    sizes[numbers.out_spec[0 if side == 0 else 1]] = scale.shape[spec[0]]
    return scale.reshape(sizes)


def _each_row(
    equation: Equation,
    side: int,
    scale: Array,
    others: Sequence[Array],
    out_shape: Sequence[Any],
) -> Array:
    """The scale of a ragged_dot's groups laid out along the rows of its result."""
    if equation.primitive is not ragged_dot_p or side == 0:
        return scale
    if scale.shape[0] == 1:
        return scale[0]
    ends = jnp.cumsum(others[0])
    rows = jnp.arange(out_shape[0], dtype=ends.dtype)
    # Rows beyond the last group are zero, whatever their scale.
    group = jnp.sum(rows[:, None] >= ends[None, :], axis=1)
    return scale[jnp.minimum(group, scale.shape[0] - 1), 0]
