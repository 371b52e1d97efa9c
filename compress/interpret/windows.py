"""The geometry of a convolution, and its operands with their axes in one order."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from compress.annotations import Array
from compress.interpret.program import Equation, shape_of


class Window(NamedTuple):
    """A convolution, its operands laid out as [batch, *space, channel] and HWIO.

    Attributes:
      kernel: Sizes of the kernel, by spatial axis; the last one is called the width.
      strides: By spatial axis.
      dilation: Of the kernel.
      input_dilation: Of the input; more than 1 in transposed convolutions.
      padding: Low and high, by spatial axis.
      space: Sizes of the input.
      output: Sizes of the output.
      channels: Of the input.
      features: Of the output.
      groups: Of the channels.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    input_dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    space: tuple[int, ...]
    output: tuple[int, ...]
    channels: int
    features: int
    groups: int

    @property
    def taps(self) -> int:
        """Elements of the kernel, channels aside."""
        return math.prod(self.kernel)


def window(equation: Equation, lhs: Any, rhs: Any) -> Window:
    """The geometry of a `conv_general_dilated`."""
    params = equation.params
    numbers = params["dimension_numbers"]
    return Window(
        kernel=tuple(rhs.shape[a] for a in numbers.rhs_spec[2:]),
        strides=tuple(params["window_strides"]),
        dilation=tuple(params["rhs_dilation"]),
        input_dilation=tuple(params["lhs_dilation"]),
        padding=tuple(tuple(pair) for pair in params["padding"]),
        space=tuple(lhs.shape[a] for a in numbers.lhs_spec[2:]),
        output=tuple(shape_of(equation.outvars[0])[a] for a in numbers.out_spec[2:]),
        channels=lhs.shape[numbers.lhs_spec[1]],
        features=rhs.shape[numbers.rhs_spec[0]],
        groups=params["feature_group_count"],
    )


def met_by(shape: Window, x: Array, tap: Sequence[int]) -> Array:
    """The part of the input that one element of the kernel meets, or one row of it."""
    picks: list[slice] = [slice(None)]
    for axis, index in enumerate(tap):
        start = index * shape.dilation[axis]
        stop = start + (shape.output[axis] - 1) * shape.strides[axis] + 1
        picks.append(slice(start, stop, shape.strides[axis]))
    return x[tuple(picks)]


def padded_size(shape: Window, axis: int) -> int:
    """The size of a spatial axis as the convolution reads it."""
    inner = (shape.space[axis] - 1) * shape.input_dilation[axis] + 1
    return inner + sum(shape.padding[axis])


def padded(shape: Window, x: Array, value: Any, *, extra: int) -> Array:
    """Padded and dilated as the convolution says, and by `extra` along the width."""
    config = [
        (low, high, inner - 1)
        for (low, high), inner in zip(shape.padding, shape.input_dilation)
    ]
    low, high, inner = config[-1]
    config[-1] = (low, high + extra, inner)
    if not any(map(any, config)):
        return x
    return jax.lax.pad(x, value, [(0, 0, 0), *config, (0, 0, 0)])


def channels_last(equation: Equation, x: Array) -> Array:
    """The input as `[batch, *space, channel]`."""
    batch, channel, *space = equation.params["dimension_numbers"].lhs_spec
    return x.transpose([batch, *space, channel])


def features_last(equation: Equation, kernel: Array) -> Array:
    """The kernel as `[*space, channel, feature]`."""
    feature, channel, *space = equation.params["dimension_numbers"].rhs_spec
    return kernel.transpose([*space, channel, feature])


def as_traced(equation: Equation, total: Array) -> Array:
    """`[batch, *space, feature]` with the axes where the equation has them."""
    batch, feature, *space = equation.params["dimension_numbers"].out_spec
    order = np.argsort([batch, *space, feature])
    return total.transpose([int(axis) for axis in order])
