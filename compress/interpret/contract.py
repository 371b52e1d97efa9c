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
from compress.interpret.program import Equation, dtype_of

# product(equation, lhs, rhs) -> the exact contraction of two integer operands
Product = Callable[[Equation, Array, Array], Array]


def multiply(equation: Equation, lhs: Array, rhs: Array, dtype: Any) -> Array:
    """The contraction of two arrays, accumulated in `dtype`."""
    params = {**equation.params, "preferred_element_type": jnp.dtype(dtype)}
    return equation.primitive.bind(lhs, rhs, **params)


def float_product(equation: Equation, lhs: Array, rhs: Array) -> Array:
    """The contraction of integers carried in floating point."""
    return multiply(equation, lhs, rhs, jnp.float32)


def contract(
    equation: Equation, operands: Sequence[Any], product: Product = float_product
) -> Array:
    """The result of a contraction, in the dtype it was traced with.

    Args:
      equation: A `dot_general` or `conv_general_dilated`.
      operands: Its two operands, arrays or `Quantized`.
      product: Computes the contraction of the integers.
    """
    out_dtype = dtype_of(equation.outvars[0])
    if not any(isinstance(x, Quantized) for x in operands):
        return equation.primitive.bind(*operands, **equation.params)
    lhs, rhs = (_carried(x, operands) for x in operands)
    if all(isinstance(x, Quantized) for x in operands):
        total = product(equation, lhs, rhs)
    else:
        total = float_product(equation, lhs, rhs)
    rank = total.ndim
    factor = jnp.ones((1,) * rank, jnp.float32)
    for side, operand in enumerate(operands):
        if isinstance(operand, Quantized):
            factor = factor * scale_of_output(equation, side, operand.scale, rank)
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
