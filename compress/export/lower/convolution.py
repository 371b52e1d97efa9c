"""Convolutions as integer products over gathered pixels.

The patches of `block` neighbouring outputs of one row are gathered together: they
share most of their pixels, so fewer and longer pieces are copied, for some products
with the zeros that then stand in the weight (a Toeplitz block). No convolution
operation is left, so neither XLA's slow ones nor those that it gets wrong are met.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from compress.annotations import Array
from compress.export.lower.offset_dot import OFFSET, offset_dot, to_unsigned
from compress.interpret import (
    Equation,
    Window,
    as_traced,
    channels_last,
    features_last,
    met_by,
    padded,
    padded_size,
    window,
)


def patches(
    equation: Equation, lhs: Array, rhs: Array, *, block: int, joined: bool
) -> Array:
    """One product over whole patches, or one per row of the kernel, summed.

    Args:
      equation: The convolution.
      lhs: Its input.
      rhs: Its kernel, int8.
      block: Neighbouring outputs of a row computed by one row of the product.
      joined: Whether the rows of the kernel are gathered too.
    """
    shape = window(equation, lhs, rhs)
    x = to_unsigned(channels_last(equation, lhs))
    kernel = features_last(equation, rhs)
    group = shape.channels // shape.groups
    per_group = shape.features // shape.groups
    totals = [
        _of_group(
            shape,
            x[..., i * group : (i + 1) * group],
            kernel[..., i * per_group : (i + 1) * per_group],
            block,
            joined,
        )
        for i in range(shape.groups)
    ]
    total = totals[0] if len(totals) == 1 else jnp.concatenate(totals, -1)
    return as_traced(equation, total)


def _of_group(
    shape: Window, x: Array, kernel: Array, block: int, joined: bool
) -> Array:
    """int32 [batch, *output, features] of one group."""
    batch, features = x.shape[0], kernel.shape[-1]
    *outer, width = shape.output
    num_blocks = -(-width // block)
    gathered = _along_width(shape, x, block, num_blocks)
    weight = _toeplitz(shape, kernel, block)
    rows = [
        met_by(shape, gathered, tap)
        for tap in itertools.product(*map(range, shape.kernel[:-1]))
    ]
    size = (batch * math.prod(outer) * num_blocks, -1)
    if joined or len(rows) == 1:
        whole = rows[0] if len(rows) == 1 else jnp.concatenate(rows, -1)
        flat = weight.reshape(-1, weight.shape[-1])
        total = offset_dot(whole.reshape(size[0], flat.shape[0]), flat)
    else:
        terms = [
            offset_dot(row.reshape(size[0], part.shape[0]), part)
            for row, part in zip(rows, weight, strict=True)
        ]
        total = sum(terms[1:], terms[0])
    total = total.reshape(batch, *outer, num_blocks * block, features)
    return total[..., :width, :]


def _along_width(shape: Window, x: Array, block: int, num_blocks: int) -> Array:
    """The pixels that the outputs of each block read, `[batch, ..., blocks, k]`."""
    stride, dilation = shape.strides[-1], shape.dilation[-1]
    width, channels = shape.kernel[-1], x.shape[-1]
    if block == 1 and dilation > 1:
        x = padded(shape, x, np.uint8(OFFSET), extra=0)
        ends = [j * dilation + (num_blocks - 1) * stride + 1 for j in range(width)]
        pieces = [x[..., j * dilation : ends[j] : stride, :] for j in range(width)]
        return jnp.concatenate(pieces, -1)
    step, span = block * stride, _span(shape, block)
    num_pieces = -(-span // step)
    needed = step * (num_blocks + num_pieces - 1)
    have = padded_size(shape, -1)
    x = padded(shape, x, np.uint8(OFFSET), extra=max(0, needed - have))
    pieces = []
    for i in range(num_pieces):
        piece = x[..., i * step : (i + num_blocks) * step, :]
        piece = piece.reshape(*piece.shape[:-2], num_blocks, step * channels)
        pieces.append(piece[..., : min(step, span - i * step) * channels])
    return pieces[0] if num_pieces == 1 else jnp.concatenate(pieces, -1)


def _span(shape: Window, block: int) -> int:
    """Pixels of a row that `block` neighbouring outputs read."""
    return (block - 1) * shape.strides[-1] + (
        (shape.kernel[-1] - 1) * shape.dilation[-1] + 1
    )


def _toeplitz(shape: Window, kernel: Array, block: int) -> Array:
    """The kernel for blocks of outputs, `[rows, k, block * features]`."""
    stride, dilation = shape.strides[-1], shape.dilation[-1]
    kernel = kernel.reshape(-1, *kernel.shape[-3:])  # [rows, width, in, features]
    rows, width, channels, features = kernel.shape
    if block == 1 and dilation > 1:
        return kernel.reshape(rows, width * channels, features)
    span, reach = _span(shape, block), (width - 1) * dilation + 1
    zero = np.int8(0)
    shifted = [
        jax.lax.pad(
            kernel,
            zero,
            [
                (0, 0, 0),
                (i * stride, span - reach - i * stride, dilation - 1),
                (0, 0, 0),
                (0, 0, 0),
            ],
        )
        for i in range(block)
    ]
    stacked = jnp.stack(shifted, axis=3)  # [rows, span, in, block, features]
    return stacked.reshape(rows, span * channels, block * features)
