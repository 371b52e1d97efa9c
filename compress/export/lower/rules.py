"""The ways to compute a site in integers, and which one is taken where.

Every rule gives the same integers. The expected gains are those of
`experiments/bench/lowering.py` (x86 with VNNI, one thread), which runs them again.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import primitives

from compress.annotations import Array
from compress.export.lower.convolution import patches
from compress.export.lower.dense import Matrices, matrices, matvec, unsigned
from compress.interpret import Equation, Window, depthwise, multiply, window

# float32 holds every integer below this, and so every sum of fewer products.
_EXACT_PRODUCTS = 2**24 // 127**2
# A product smaller than this takes less time than the calls around it.
_SMALL_WEIGHT = 2048
# For one row: 256x256 takes 23 us against 22 in float32, 512x512 27 against 33.
_SMALL_ROW = 2**17
_MAX_GROUPS = 16


def plain(equation: Equation, lhs: Array, rhs: Array, *others: Array) -> Array:
    """The operation as it was traced, on int8, summed in int32."""
    lhs, rhs = lhs.astype(jnp.int8), rhs.astype(jnp.int8)
    return multiply(equation, lhs, rhs, jnp.int32, *others)


def in_float(equation: Equation, lhs: Array, rhs: Array) -> Array:
    """The same integers, carried in float32: exact up to 1,040 products per sum."""
    return multiply(
        equation, lhs.astype(jnp.float32), rhs.astype(jnp.float32), jnp.float32
    )


def shifted(equation: Equation, lhs: Array, rhs: Array) -> Array:
    """A depthwise convolution of integers in float32, without a convolution."""
    return depthwise(equation, lhs.astype(jnp.float32), rhs.astype(jnp.float32))


# rule(equation, lhs, rhs, *others) -> the exact sums, in int32 or as whole numbers in
# float32; the others are the sizes of the groups of a ragged_dot.
Rule = Callable[..., Array]

RULES: dict[str, Rule] = {
    "plain": plain,
    "float": in_float,
    "unsigned": unsigned,
    "matvec": matvec,
    "depthwise": shifted,
    "patches": partial(patches, block=1, joined=True),
    "patches_of_2": partial(patches, block=2, joined=True),
    "patches_of_4": partial(patches, block=4, joined=True),
    "rows": partial(patches, block=1, joined=False),
    "rows_of_2": partial(patches, block=2, joined=False),
}


# What a rule gains over float32 on x86 with VNNI, one thread, where it is chosen;
# `experiments/bench/lowering.py` measures whether it still does.
EXPECTED_GAIN = {
    "plain": 0.8,
    "float": 1.0,
    "unsigned": 2.5,
    "matvec": 1.2,
    "depthwise": 5.0,
    "patches": 1.5,
    "patches_of_2": 1.1,
    "patches_of_4": 1.5,
    "rows": 1.5,
    "rows_of_2": 1.5,
}
# Rules whose integers are carried in float32, where that is exact and faster.
CARRIED_IN_FLOAT = ("float", "depthwise")


class Choice(NamedTuple):
    """How one site is computed.

    Attributes:
      rule: Of `RULES`.
      reason: Why, for the manifest.
    """

    rule: str
    reason: str


def candidates(equation: Equation, lhs: Any, rhs: Any, stacked: bool) -> list[Choice]:
    """The rules that can compute a site, the one that should be fastest first.

    Args:
      equation: A `dot_general`, `conv_general_dilated` or `ragged_dot`.
      lhs: Its left operand; only shape and dtype matter.
      rhs: Its right operand; the weight is the one in int8.
      stacked: Whether the site is inside a scan, where a weight cannot be laid out
        once and for all.
    """
    if equation.primitive is primitives.conv_general_dilated_p:
        found = _for_convolution(equation, lhs, rhs)
    elif equation.primitive is primitives.dot_general_p:
        found = _for_product(matrices(equation, lhs, rhs), stacked)
    else:
        found = []
    return [*found, reference_choice()]


def reference_choice() -> Choice:
    """The operation as it was traced: always possible, seldom fast."""
    return Choice("plain", "the operation as it stands in the model")


def _for_product(shape: Matrices | None, stacked: bool) -> list[Choice]:
    if shape is None:
        return []
    mixed = Choice("unsigned", "uint8 x int8 products, 1.5x to 3x as fast as int8")
    exact = Choice("float", f"{shape.k}x{shape.n} is too small to gain from int8")
    small = shape.k * shape.n < _SMALL_WEIGHT
    one = isinstance(shape.m, int) and shape.m == 1
    if one and shape.k * shape.n < _SMALL_ROW:
        small = True
    if small and shape.k <= _EXACT_PRODUCTS:
        return [exact, mixed]
    if one and not stacked:
        row = "one row: the weight on the left is not repacked at every call"
        return [Choice("matvec", row), mixed]
    return [mixed]


def _for_convolution(equation: Equation, lhs: Any, rhs: Any) -> list[Choice]:
    if equation.params["batch_group_count"] > 1:
        return []
    shape = window(equation, lhs, rhs)
    exact = shape.taps * shape.channels // shape.groups <= _EXACT_PRODUCTS
    carried = [Choice("float", "integers in float32")] if exact else []
    if shape.groups == shape.channels and shape.groups > 1:
        why = "depthwise as shifted sums, 20x as fast as a convolution"
        return [Choice("depthwise", why), *carried]
    if shape.groups > _MAX_GROUPS:
        return [c._replace(reason=f"{shape.groups} groups") for c in carried]
    return [*_gathered(shape), *carried]


def _gathered(shape: Window) -> list[Choice]:
    why = f"{shape.channels} channels, stride {shape.strides[-1]}: "
    if shape.taps == 1:
        return [Choice("patches", "1x1 as a product over the pixels")]
    names = ["patches", "rows", "patches_of_2", "rows_of_2", "patches_of_4"]
    if shape.channels // shape.groups <= 16:
        best = "patches_of_2"
    else:
        best = "patches" if shape.strides[-1] > 1 else "rows"
    if shape.dilation[-1] > 1:
        names, best = ["patches", "rows"], "patches"
    if len(shape.kernel) == 1:
        names, best = ["patches", "patches_of_2", "patches_of_4"], "patches"
    ordered: Sequence[str] = [best, *(name for name in names if name != best)]
    return [Choice(name, f"{why}uint8 x int8 over gathered pixels") for name in ordered]
