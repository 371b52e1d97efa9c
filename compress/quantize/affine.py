"""The arithmetic of symmetric quantization: real = qvalue * scale.

Source: Jacob et al. 2018, eq. 1 with zero_point = 0. https://arxiv.org/abs/1712.05877
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from compress.annotations import Array, Float, Int

# Known, or traced: then a grid over widths is one program under `jax.vmap`.
Bits = int | Int[Array, ""]


def largest_integer(bits: Bits) -> int | Float[Array, ""]:
    """The largest integer of the symmetric grid, `2**(bits-1) - 1`.

    Raises:
      ValueError: If `bits` is outside 2 to 8; of a traced width that is not known.
    """
    if not isinstance(bits, int):
        return (jnp.left_shift(jnp.ones_like(bits), bits - 1) - 1).astype(jnp.float32)
    if not 2 <= bits <= 8:
        raise ValueError(f"bits={bits} must be 2 to 8.")
    return 2 ** (bits - 1) - 1


def absmax_scale(absmax: Float[Array, "*dims"], *, bits: Bits) -> Float[Array, "*dims"]:
    """The size of one integer step that lets the grid just reach `absmax`.

    A group of zeros gets scale 1, so that it stays exactly zero.
    """
    scale = absmax.astype(jnp.float32) / largest_integer(bits)
    # Below the smallest normal number 1 / scale would be infinite.
    return jnp.where(scale >= jnp.finfo(jnp.float32).tiny, scale, jnp.float32(1.0))


def absmax_over(x: Float[Array, "*dims"], axes: Sequence[int]) -> Float[Array, "..."]:
    """The largest magnitude over `axes`, which keep size 1."""
    return jnp.max(jnp.abs(x), axis=tuple(axes), keepdims=True, initial=0.0)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def round_through(
    x: Float[Array, "*dims"], limit: int | Float[Array, ""]
) -> Float[Array, "*dims"]:
    """Rounds half to even and clips to `[-limit, limit]`.

    The gradient is 1 where `|x| <= limit + 1/2`, the values that round into the range,
    and 0 beyond: the straight-through estimator. Source: Bengio et al. 2013,
    https://arxiv.org/abs/1308.3432.
    """
    return jnp.clip(jnp.round(x), -limit, limit)


@round_through.defjvp
def _round_through_jvp(limit: Any, primals: Any, tangents: Any) -> Any:
    (x,), (tangent,) = primals, tangents
    inside = jnp.abs(x) <= limit + 0.5
    return round_through(x, limit), jnp.where(inside, tangent, jnp.zeros_like(tangent))


def quantize(
    x: Float[Array, "*dims"],
    # Not "*#dims": broadcasting is not checked where the batch size is symbolic.
    scale: Float[Array, "..."],
    *,
    bits: Bits,
) -> Float[Array, "*dims"]:
    """The integers nearest to `x / scale`, carried in float32.

    Multiplies by the reciprocal of the scale, in training and in serving alike: a
    division would give other bits.

    Args:
      x: Values to quantize.
      scale: Size of one integer step, in units of `x`; positive; of the same rank,
        size 1 along axes that share it.
      bits: Width of the signed grid, 2 to 8.

    Returns:
      Whole numbers in `[-(2**(bits-1) - 1), 2**(bits-1) - 1]`.
    """
    reciprocal = jax.lax.stop_gradient(1.0 / scale)
    return round_through(x.astype(jnp.float32) * reciprocal, largest_integer(bits))
