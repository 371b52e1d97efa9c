"""Operations on one element of each operand: axes stand side by side.

Size-1 axes are stretched without a broadcast (jax 0.10 and later), so they are passed
over. What a result is where units were removed follows from what the operands are.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jax.extend.core import primitives

from compress.interpret.axes.nodes import Node, atom, is_one, unify
from compress.interpret.axes.values import Value, Vanishing
from compress.interpret.program import Equation, shape_of


def _known(*names: str) -> list[Any]:
    """Those of these primitives that this version of JAX has."""
    return [getattr(primitives, n) for n in names if hasattr(primitives, n)]


# f(0) = 0
_THROUGH_ZERO = _known(
    *("abs_p", "asin_p", "asinh_p", "atan_p", "atanh_p", "cbrt_p", "ceil_p"),
    *("convert_element_type_p", "copy_p", "erf_p", "erf_inv_p", "expm1_p", "floor_p"),
    *("log1p_p", "name_p", "neg_p", "real_p", "imag_p", "conj_p", "round_p", "sign_p"),
    *("reduce_precision_p", "sin_p", "sinh_p", "sqrt_p", "square_p", "tan_p", "tanh_p"),
    *("stop_gradient_p", "sharding_constraint_p"),
)
# Zero if any operand is, if all operands are, if the first one is.
_ANY = _known("mul_p", "and_p")
_ALL = _known(
    *("add_p", "sub_p", "add_jaxvals_p", "or_p", "xor_p", "complex_p", "max_p"),
    *("min_p", "clamp_p"),
)
_FIRST = _known("div_p", "rem_p", "shift_left_p", "shift_right_arithmetic_p", "atan2_p")
# No rule: not zero.
_OTHER = _known(
    *("acos_p", "acosh_p", "bessel_i0e_p", "bessel_i1e_p", "clz_p", "cos_p", "cosh_p"),
    *("digamma_p", "eq_p", "erfc_p", "exp_p", "exp2_p", "ge_p", "gt_p", "igamma_p"),
    *("igammac_p", "is_finite_p", "le_p", "lgamma_p", "log_p", "log2_p", "logistic_p"),
    *("lt_p", "ne_p", "nextafter_p", "not_p", "one_minus_square_p", "polygamma_p"),
    *("population_count_p", "rsqrt_p", "shift_right_logical_p", "zeta_p"),
)

# One operand's flag along an axis: that of the axis, or of the number spread along it.
Flags = Sequence[bool]


def _select(equation: Equation, operands: Sequence[Value], flags: Flags) -> bool:
    return all(flags[1:])


def _power(equation: Equation, operands: Sequence[Value], flags: Flags) -> bool:
    exponent = operands[1].literal
    return flags[0] and exponent is not None and exponent > 0


def _integer_power(equation: Equation, operands: Sequence[Value], flags: Flags) -> bool:
    return flags[0] and equation.params["y"] > 0


def _all(equation: Equation, operands: Sequence[Value], flags: Flags) -> bool:
    """max(0, c) = 0 for c <= 0; min(0, c) = 0 for c >= 0; clamp has both."""
    below = {primitives.max_p: (0, 1), primitives.clamp_p: (0,)}
    above = {primitives.min_p: (0, 1), primitives.clamp_p: (2,)}
    lower = below.get(equation.primitive, ())
    upper = above.get(equation.primitive, ())
    return any(flags) and all(
        flag
        or (x.literal is not None and i in lower and x.literal <= 0)
        or (x.literal is not None and i in upper and x.literal >= 0)
        for i, (flag, x) in enumerate(zip(flags, operands, strict=True))
    )


# rule(equation, operands, flags) -> whether the result is zero
_RULES: dict[Any, Callable[..., bool]] = {
    **dict.fromkeys(_THROUGH_ZERO, lambda equation, operands, flags: flags[0]),
    **dict.fromkeys(_ANY, lambda equation, operands, flags: any(flags)),
    **dict.fromkeys(_ALL, _all),
    **dict.fromkeys(_FIRST, lambda equation, operands, flags: flags[0]),
    **dict.fromkeys(_OTHER, lambda equation, operands, flags: False),
    primitives.select_n_p: _select,
    primitives.pow_p: _power,
    primitives.integer_pow_p: _integer_power,
}
ELEMENTWISE = frozenset(_RULES)

_ADDITIONS = (primitives.add_p, primitives.sub_p, primitives.add_jaxvals_p)
_UNCHANGED = _known("copy_p", "name_p", "sharding_constraint_p", "stop_gradient_p")


def elementwise(equation: Equation, operands: Sequence[Value], where: str) -> Value:
    """The result of an elementwise operation."""
    shape = shape_of(equation.outvars[0])
    rule = _RULES[equation.primitive]
    axes, zeros = [], []
    for axis, size in enumerate(shape):
        axes.append(_common_axis(operands, axis, size, where))
        flags = [_flag(x, axis, len(shape)) for x in operands]
        zeros.append(rule(equation, operands, flags))
    layers = tuple(
        rule(equation, operands, [x.layers[i] for x in operands])
        for i in range(len(operands[0].layers))
    )
    carry = _carried(equation, operands)
    return Value(
        tuple(axes), tuple(zeros), layers, _literal(equation, operands), carry=carry
    )


def _common_axis(operands: Sequence[Value], axis: int, size: Any, where: str) -> Node:
    """The axis of the result, the same as that of every operand that has it."""
    own = [
        x.axes[axis]
        for x in operands
        if len(x.axes) > axis and not (is_one(x.axes[axis].size) and not is_one(size))
    ]
    for other in own[1:]:
        unify(own[0], other, where)
    return own[0] if own else atom(size)


def _flag(value: Value, axis: int, rank: int) -> bool:
    if len(value.axes) == rank and not is_one(value.axes[axis].size):
        return value.zeros[axis]
    return value.is_zero


def _carried(equation: Equation, operands: Sequence[Value]) -> int | None:
    """x + f is what x was, if f vanishes in a removed layer."""
    if equation.primitive in _UNCHANGED:
        return operands[0].carry
    if equation.primitive not in _ADDITIONS:
        return None
    first, second = operands
    if first.carry is not None and second.layers[-1]:
        return first.carry
    subtracts = equation.primitive is primitives.sub_p
    return second.carry if first.layers and first.layers[-1] and not subtracts else None


_MOVES_NUMBERS = (primitives.convert_element_type_p, *_UNCHANGED)


def _literal(equation: Equation, operands: Sequence[Value]) -> float | None:
    return operands[0].literal if equation.primitive in _MOVES_NUMBERS else None


def literal_of(atom_value: Any) -> float | None:
    """A scalar literal as a number."""
    try:
        return float(atom_value)
    except (TypeError, ValueError):
        return None


def vanishing(values: Sequence[Vanishing]) -> Vanishing:
    """Where all of several values vanish."""
    return tuple(all(flags) for flags in zip(*values, strict=True))
