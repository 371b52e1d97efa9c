"""Operations that combine the elements of an axis: contractions, reductions, windows.

A unit may be removed from a sum only if its terms are zero then: because the weights
that read it are (a contraction with a parameter), or because what writes it is.
"""

from collections.abc import Sequence
from typing import Any

from jax.extend.core import primitives

from compress.interpret.axes.moves import Values
from compress.interpret.axes.nodes import (
    Kept,
    Node,
    atom,
    atoms,
    freeze,
    is_one,
    leaves,
    new_size,
    product,
    unify,
)
from compress.interpret.axes.values import Value
from compress.interpret.program import Equation, shape_of

# Why a kernel's positions are frozen.
WINDOW = "a convolution's window"


def dot_general(equation: Equation, operands: Values, where: str) -> list[Value]:
    """Contracted pairs are the same axis, batch pairs too; free axes go through."""
    (lhs_sum, rhs_sum), (lhs_batch, rhs_batch) = equation.params["dimension_numbers"]
    lhs, rhs = operands
    for i, j in zip(lhs_sum, rhs_sum, strict=True):
        _contract(lhs, i, rhs, j, where)
    batch = []
    for i, j in zip(lhs_batch, rhs_batch, strict=True):
        unify(lhs.axes[i], rhs.axes[j], where)
        batch.append((lhs.axes[i], lhs.zeros[i] or rhs.zeros[j]))
    free = [
        (x.axes[i], x.zeros[i])
        for x, used in ((lhs, {*lhs_sum, *lhs_batch}), (rhs, {*rhs_sum, *rhs_batch}))
        for i in range(len(x.axes))
        if i not in used
    ]
    return [_result([*batch, *free], operands)]


def _result(axes: Sequence[tuple[Node, bool]], operands: Values) -> Value:
    """Of a product: it vanishes in a layer in which either operand does."""
    nodes, zeros = zip(*axes) if axes else ((), ())
    layers = tuple(a or b for a, b in zip(operands[0].layers, operands[1].layers))
    return Value(tuple(nodes), tuple(zeros), layers)


def _contract(lhs: Value, i: int, rhs: Value, j: int, where: str) -> None:
    unify(lhs.axes[i], rhs.axes[j], where)
    reads = any(x.zeros[axis] and x.weight for x, axis in ((lhs, i), (rhs, j)))
    if not lhs.zeros[i] and not rhs.zeros[j]:
        freeze([lhs.axes[i]], f"summed over where removed units are not zero, {where}")
    elif not reads:
        _note_sum(lhs.axes[i], where)


def _note_sum(node: Node, where: str) -> None:
    """Remembers that what writes the units must be zero for them to be removed."""
    for leaf in leaves(node):
        leaf.summed[where] = None


def convolution(equation: Equation, operands: Values, where: str) -> list[Value]:
    """Groups are a factor of the input's and of the output's features."""
    params, (x, kernel) = equation.params, operands
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    image, filters, out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    features, outputs = x.axes[image[1]], kernel.axes[filters[0]]
    if params["batch_group_count"] > 1:
        freeze([*x.axes, *kernel.axes], f"a convolution in batch groups, {where}")
    freeze([kernel.axes[i] for i in filters[2:]], f"{WINDOW}, {where}")
    freeze([x.axes[i] for i in image[2:]], f"a convolution's positions, {where}")
    inputs = kernel.axes[filters[1]]
    if groups > 1:
        group = atom(groups)
        unify(features, product([group, inputs]), where)
        unify(outputs, product([group, atom(outputs.size // groups)]), where)
    _read_features(x, kernel, image[1], filters[1], groups, where)
    if groups == 1:
        unify(features, inputs, where)
    shape = shape_of(equation.outvars[0])
    axes = [
        (node, False) for node in atoms(shape, f"a convolution's positions, {where}")
    ]
    axes[out[0]] = (x.axes[image[0]], x.zeros[image[0]])
    mixed = params["batch_group_count"] > 1
    axes[out[1]] = (outputs, kernel.zeros[filters[0]])
    if mixed:
        axes = [(atom(size, f"in batch groups, {where}"), False) for size in shape]
    return [_result(axes, operands)]


def _read_features(
    x: Value, kernel: Value, i: int, j: int, groups: int, where: str
) -> None:
    """Within a group every output reads every input; across groups none does."""
    node = kernel.axes[j]
    if (kernel.zeros[j] and kernel.weight) or is_one(node.size):
        return
    if x.zeros[i] or kernel.zeros[j]:
        _note_sum(node, where)
    else:
        freeze([node], f"summed over where removed units are not zero, {where}")


def rewrite_convolution(
    equation: Equation, operands: Values, results: Values, kept: Kept
) -> dict[str, Any]:
    """As many groups as the input's features now hold."""
    params, (x, kernel) = equation.params, operands
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    if groups == 1:
        return dict(params)
    features = new_size(x.axes[numbers.lhs_spec[1]], kept)
    per_group = new_size(kernel.axes[numbers.rhs_spec[1]], kept)
    return {**params, "feature_group_count": features // per_group}


def contraction_sizes(
    equation: Equation, operands: Values, result: Value
) -> list[Node]:
    """The axes whose sizes, multiplied, are the products of a contraction."""
    if equation.primitive is primitives.conv_general_dilated_p:
        kernel = equation.params["dimension_numbers"].rhs_spec
        return [*result.axes, *(operands[1].axes[i] for i in kernel[1:])]
    (summed, _), _ = equation.params["dimension_numbers"]
    return [*result.axes, *(operands[0].axes[i] for i in summed)]


def reduce_sum(equation: Equation, operands: Values, where: str) -> list[Value]:
    """A sum of what is zero where units were removed."""
    x = operands[0]
    for axis in equation.params["axes"]:
        if x.zeros[axis]:
            _note_sum(x.axes[axis], where)
        else:
            reason = f"summed over where removed units are not zero, {where}"
            freeze([x.axes[axis]], reason)
    return [_without(x, equation.params["axes"], x.zeros, x.layers)]


def _without(x: Value, gone: Sequence[Any], zeros: Any, layers: Any) -> Value:
    kept = [i for i in range(len(x.axes)) if i not in gone]
    return Value(
        tuple(x.axes[i] for i in kept), tuple(zeros[i] for i in kept), tuple(layers)
    )


# The largest of zeros is zero; a product or an index is not.
_KEEP_ZERO = (primitives.reduce_max_p, primitives.reduce_min_p, primitives.reduce_or_p)


def reduction(equation: Equation, operands: Values, where: str) -> list[Value]:
    """Anything else that combines an axis freezes it."""
    x, gone = operands[0], equation.params["axes"]
    name = equation.primitive.name
    freeze([x.axes[axis] for axis in gone], f"combined by {name}, {where}")
    zero = equation.primitive in _KEEP_ZERO
    zeros, layers = ([flag and zero for flag in flags] for flags in (x.zeros, x.layers))
    return [_without(x, gone, zeros, layers)]


def cumulative(equation: Equation, operands: Values, where: str) -> list[Value]:
    """Its order matters."""
    x = operands[0]
    name = equation.primitive.name
    freeze([x.axes[equation.params["axis"]]], f"ordered by {name}, {where}")
    keeps = equation.primitive in (primitives.cumsum_p, primitives.cummax_p)
    zeros = tuple(flag and keeps for flag in x.zeros)
    return [Value(x.axes, zeros, tuple(flag and keeps for flag in x.layers))]


def sort(equation: Equation, operands: Values, where: str) -> list[Value]:
    """Sorted together: the other axes are the same."""
    freeze([x.axes[equation.params["dimension"]] for x in operands], f"sorted, {where}")
    for other in operands[1:]:
        for a, b in zip(operands[0].axes, other.axes, strict=True):
            unify(a, b, where)
    return [
        Value(x.axes, (False,) * len(x.axes), (False,) * len(x.layers))
        for x in operands
    ]


def window(equation: Equation, operands: Values, where: str) -> list[Value]:
    """Pooling: axes with a window of one go through."""
    x, params = operands[0], equation.params
    shape = shape_of(equation.outvars[0])
    axes, zeros = [], []
    for axis, size in enumerate(params["window_dimensions"]):
        alone = size == 1 and shape[axis] == x.axes[axis].size
        if not alone:
            freeze([x.axes[axis]], f"pooled, {where}")
        axes.append(x.axes[axis] if alone else atom(shape[axis], f"pooled, {where}"))
        zeros.append(x.zeros[axis] and alone)
    layers = (False,) * len(x.layers)
    return [Value(tuple(axes), tuple(zeros), layers)]


_REDUCTIONS = (
    primitives.reduce_max_p,
    primitives.reduce_min_p,
    primitives.reduce_prod_p,
    primitives.reduce_and_p,
    primitives.reduce_or_p,
    primitives.reduce_xor_p,
    primitives.argmax_p,
    primitives.argmin_p,
)
_CUMULATIVE = (
    primitives.cumsum_p,
    primitives.cumprod_p,
    primitives.cummax_p,
    primitives.cummin_p,
    primitives.cumlogsumexp_p,
)
_WINDOWS = (
    primitives.reduce_window_sum_p,
    primitives.reduce_window_max_p,
    primitives.reduce_window_min_p,
)
RULES = {
    primitives.dot_general_p: dot_general,
    primitives.conv_general_dilated_p: convolution,
    primitives.reduce_sum_p: reduce_sum,
    primitives.sort_p: sort,
    **dict.fromkeys(_REDUCTIONS, reduction),
    **dict.fromkeys(_CUMULATIVE, cumulative),
    **dict.fromkeys(_WINDOWS, window),
}
REWRITES = {primitives.conv_general_dilated_p: rewrite_convolution}
