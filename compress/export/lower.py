"""How a quantized site becomes integer XLA operations."""

import jax.numpy as jnp

from compress.annotations import Array, Int, Num
from compress.interpret import Equation, multiply


def integer_product(
    equation: Equation, lhs: Num[Array, "..."], rhs: Num[Array, "..."]
) -> Int[Array, "..."]:
    """The contraction on int8 operands, accumulated in int32.

    Args:
      equation: A `dot_general` or `conv_general_dilated`.
      lhs: Whole numbers that fit int8, in any dtype.
      rhs: Likewise.
    """
    return multiply(equation, lhs.astype(jnp.int8), rhs.astype(jnp.int8), jnp.int32)
