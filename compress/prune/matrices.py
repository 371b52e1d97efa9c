"""A contraction as matrix products: rows of inputs meet rows of weights.

Every contraction is, for each of its groups (batch axes, experts, feature groups of a
convolution), `x @ w.T` with inputs `[rows, inputs]` and weights `[outputs, inputs]`. A
row of weights makes one output. The columns of a convolution are the positions of its
window, and at each of them the input channels.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import primitives

from compress.annotations import Array, Float, Int, Num
from compress.interpret import Equation, ragged_dot_p, shape_of

_EXACT = jax.lax.Precision.HIGHEST


def weight_matrices(
    equation: Equation, side: int, weight: Num[Array, "..."]
) -> Num[Array, "groups outputs inputs"]:
    """The weight of a contraction, an output per row.

    Args:
      equation: A `dot_general`, `conv_general_dilated` or plain `ragged_dot`.
      side: Which operand is the weight, 0 or 1.
      weight: That operand.
    """
    if equation.primitive is ragged_dot_p:
        return weight.transpose(0, 2, 1)
    if equation.primitive is primitives.conv_general_dilated_p:
        spec = equation.params["dimension_numbers"].rhs_spec
        rows = weight.transpose([spec[0], *spec[2:], spec[1]])
        groups = equation.params["feature_group_count"]
        return rows.reshape(groups, rows.shape[0] // groups, -1)
    return _dot_matrices(equation, side, weight)


def squared_norms(
    equation: Equation, side: int, x: Array, others: Sequence[Array] = ()
) -> Float[Array, "groups inputs"]:
    """The sum of squares of each input over the rows of a batch.

    Args:
      equation: The contraction.
      side: Which operand is the weight; `x` is the other one.
      x: The data that meet the weight.
      others: Further operands: the group sizes of a `ragged_dot`.
    """
    x = x.astype(jnp.float32)
    if equation.primitive is ragged_dot_p:
        experts, belongs = _experts(equation, x, others[0])
        return jax.ops.segment_sum(jnp.square(x), belongs, num_segments=experts)
    return jnp.sum(jnp.square(input_rows(equation, side, x)), axis=1)


def hessians(
    equation: Equation, side: int, x: Array, others: Sequence[Array] = ()
) -> Float[Array, "groups inputs inputs"]:
    """`X.T @ X` over the rows of a batch; arguments as of `squared_norms`."""
    x = x.astype(jnp.float32)
    if equation.primitive is ragged_dot_p:
        experts, belongs = _experts(equation, x, others[0])
        each = jnp.arange(experts, dtype=belongs.dtype)
        return jax.lax.map(
            lambda i: _gram(jnp.where((belongs == i)[:, None], x, 0.0)), each
        )
    return jax.vmap(_gram)(input_rows(equation, side, x))


def input_rows(
    equation: Equation, side: int, x: Num[Array, "..."]
) -> Num[Array, "groups rows inputs"]:
    """The data of a `dot_general` or convolution, in the order of the weight's rows."""
    if equation.primitive is primitives.conv_general_dilated_p:
        return _patches(equation, x)
    return _dot_matrices(equation, 1 - side, x)


def _gram(rows: Float[Array, "rows inputs"]) -> Float[Array, "inputs inputs"]:
    return jnp.matmul(rows.T, rows, precision=_EXACT)


def _dot_matrices(equation: Equation, side: int, x: Array) -> Array:
    """Batch axes first, contracted axes last; both operands in the same order."""
    contracting, batch = (axes[side] for axes in equation.params["dimension_numbers"])
    free = [a for a in range(x.ndim) if a not in {*contracting, *batch}]
    sizes = [math.prod(x.shape[a] for a in axes) for axes in (batch, free, contracting)]
    return x.transpose([*batch, *free, *contracting]).reshape(sizes)


def _patches(equation: Equation, x: Array) -> Array:
    """What a convolution's kernel is laid on, positions outside, channels inside."""
    params = equation.params
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    kernel = shape_of(equation.invars[1])
    window = [kernel[axis] for axis in numbers.rhs_spec[2:]]
    patches = jax.lax.conv_general_dilated_patches(
        x.transpose(numbers.lhs_spec),
        window,
        params["window_strides"],
        params["padding"],
        lhs_dilation=params["lhs_dilation"],
        rhs_dilation=params["rhs_dilation"],
        precision=_EXACT,
    )
    channels, positions = kernel[numbers.rhs_spec[1]], math.prod(window)
    split = patches.reshape(
        x.shape[numbers.lhs_spec[0]], groups, channels, positions, -1
    )
    return split.transpose(1, 0, 4, 3, 2).reshape(groups, -1, positions * channels)


def _experts(
    equation: Equation, x: Array, sizes: Array
) -> tuple[int, Int[Array, "rows"]]:
    """How many experts there are, and which one each row meets; that many for none."""
    ends = jnp.cumsum(sizes)
    rows = jnp.arange(x.shape[0], dtype=ends.dtype)
    belongs = jnp.sum(rows[:, None] >= ends[None, :], axis=1)
    return int(shape_of(equation.invars[1])[0]), belongs


def unsupported(equation: Equation) -> str | None:
    """Why a contraction's inputs cannot be laid out as rows, or None."""
    if equation.primitive is primitives.conv_general_dilated_p:
        params: Any = equation.params
        if params["batch_group_count"] != 1:
            return "a convolution with groups of examples"
    return None


def input_channels(equation: Equation) -> int | None:
    """The channels each output of a convolution reads; None for a product."""
    if equation.primitive is not primitives.conv_general_dilated_p:
        return None
    numbers = equation.params["dimension_numbers"]
    return int(shape_of(equation.invars[1])[numbers.rhs_spec[1]])
