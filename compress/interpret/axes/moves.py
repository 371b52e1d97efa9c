"""Operations that move elements: how axes go through them, and their new sizes.

A rule is `(equation, operands, where) -> results`; a rewrite is
`(equation, operands, results, kept) -> params` with the sizes after pruning.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import primitives

from compress.interpret.axes.elementwise import vanishing
from compress.interpret.axes.nodes import (
    Kept,
    Node,
    atom,
    concatenation,
    freeze,
    is_one,
    is_touched,
    kept_mask,
    new_size,
    product,
    unify,
)
from compress.interpret.axes.values import Value
from compress.interpret.boxes import reshape_blocks
from compress.interpret.program import Equation, shape_of, split_p

Values = Sequence[Value]


def transpose(equation: Equation, operands: Values, where: str) -> list[Value]:
    """Axes in another order."""
    order, x = equation.params["permutation"], operands[0]
    return [x.moved([x.axes[i] for i in order], [x.zeros[i] for i in order])]


def squeeze(equation: Equation, operands: Values, where: str) -> list[Value]:
    """Without axes of size one."""
    gone, x = equation.params["dimensions"], operands[0]
    kept = [i for i in range(len(x.axes)) if i not in gone]
    return [x.moved([x.axes[i] for i in kept], [x.zeros[i] for i in kept])]


def broadcast_in_dim(equation: Equation, operands: Values, where: str) -> list[Value]:
    """New axes, and axes spread from size one, are anything."""
    shape, x = equation.params["shape"], operands[0]
    axes: list[Node] = [atom(size) for size in shape]
    zeros = [x.is_zero] * len(shape)
    for axis, target in enumerate(equation.params["broadcast_dimensions"]):
        if not is_one(x.axes[axis].size) or is_one(shape[target]):
            axes[target], zeros[target] = x.axes[axis], x.zeros[axis]
    return [x.moved(axes, zeros)]


def reshape(equation: Equation, operands: Values, where: str) -> list[Value]:
    """Block by block: the product of the axes on both sides is the same axis."""
    x, new = operands[0], equation.params["new_sizes"]
    order = equation.params["dimensions"] or range(len(x.axes))
    axes, zeros = [atom(size) for size in new], [True] * len(new)
    for left, right in reshape_blocks([x.axes[i].size for i in order], new):
        sources = [order[i] for i in left]
        long = [i for i in sources if not is_one(x.axes[i].size)]
        wide = [j for j in right if not is_one(new[j])]
        vanishes = all(x.zeros[i] for i in long)
        for j in right:
            zeros[j] = vanishes
        if len(long) == len(wide) == 1:
            axes[wide[0]] = x.axes[long[0]]
        elif long and wide:
            merged = product([x.axes[i] for i in long])
            unify(merged, product([axes[j] for j in wide]), where)
    return [x.moved(axes, zeros)]


def rev(equation: Equation, operands: Values, where: str) -> list[Value]:
    """An order that is turned round is not followed."""
    x = operands[0]
    freeze([x.axes[i] for i in equation.params["dimensions"]], f"reversed, {where}")
    return [x.moved(x.axes, x.zeros)]


def slice_(equation: Equation, operands: Values, where: str) -> list[Value]:
    """A slice is a segment of the axis it is taken from."""
    x, params = operands[0], equation.params
    strides = params["strides"] or (1,) * len(x.axes)
    bounds = zip(params["start_indices"], params["limit_indices"], strides)
    axes = [_segment(node, *bound, where) for node, bound in zip(x.axes, bounds)]
    return [x.moved(axes, x.zeros)]


def _segment(node: Node, start: Any, limit: Any, stride: int, where: str) -> Node:
    if (start, limit, stride) == (0, node.size, 1):
        return node
    if stride != 1 or not isinstance(node.size, int):
        freeze([node], f"sliced with a stride, {where}")
        return atom(len(range(start, limit, stride)), f"sliced, {where}")
    sizes = [start, limit - start, node.size - limit]
    parts = [atom(size) for size in sizes]
    unify(node, concatenation([part for part in parts if part.size]), where)
    return parts[1]


def rewrite_slice(
    equation: Equation, operands: Values, results: Values, kept: Kept
) -> dict[str, Any]:
    """The kept indices before each bound are where it is now."""
    params = dict(equation.params)
    starts, limits = list(params["start_indices"]), list(params["limit_indices"])
    for axis, node in enumerate(operands[0].axes):
        if is_touched(node, kept):
            before = np.concatenate([[0], np.cumsum(kept_mask(node, kept))])
            starts[axis], limits[axis] = (
                int(before[b[axis]]) for b in (starts, limits)
            )
    return params | {"start_indices": tuple(starts), "limit_indices": tuple(limits)}


def split(equation: Equation, operands: Values, where: str) -> list[Value]:
    """The parts are the segments of the axis."""
    x, axis, sizes = operands[0], equation.params["axis"], equation.params["sizes"]
    parts = [atom(size) for size in sizes]
    unify(x.axes[axis], concatenation(parts), where)
    around = x.axes[:axis], x.axes[axis + 1 :]
    return [x.moved((*around[0], part, *around[1]), x.zeros) for part in parts]


def rewrite_split(
    equation: Equation, operands: Values, results: Values, kept: Kept
) -> dict[str, Any]:
    """New sizes of the parts."""
    axis = equation.params["axis"]
    sizes = tuple(new_size(result.axes[axis], kept) for result in results)
    return {**equation.params, "sizes": sizes}


def concatenate(equation: Equation, operands: Values, where: str) -> list[Value]:
    """Segments end to end; the other axes are the same."""
    along, first = equation.params["dimension"], operands[0]
    axes = list(first.axes)
    for other in operands[1:]:
        for axis, node in enumerate(other.axes):
            if axis != along:
                unify(axes[axis], node, where)
    axes[along] = concatenation([x.axes[along] for x in operands])
    zeros = vanishing([x.zeros for x in operands])
    layers = vanishing([x.layers for x in operands])
    return [Value(tuple(axes), zeros, layers)]


def pad(equation: Equation, operands: Values, where: str) -> list[Value]:
    """A padded axis is frozen, and what comes out of it is another axis."""
    x, filling = operands
    axes, zeros = list(x.axes), list(x.zeros)
    sizes = shape_of(equation.outvars[0])
    for axis, padding in enumerate(equation.params["padding_config"]):
        if any(padding):
            freeze([x.axes[axis]], f"padded, {where}")
            axes[axis] = atom(sizes[axis], f"padded, {where}")
    if not filling.is_zero:
        zeros = [False] * len(zeros)
    layers = vanishing([x.layers, filling.layers])
    return [Value(tuple(axes), tuple(zeros), layers)]


def dynamic_slice(equation: Equation, operands: Values, where: str) -> list[Value]:
    """Whole axes go through."""
    x, sizes = operands[0], equation.params["slice_sizes"]
    axes = [_whole(node, size, where) for node, size in zip(x.axes, sizes)]
    return [x.moved(axes, x.zeros)]


def _whole(node: Node, size: Any, where: str) -> Node:
    if node.size == size:
        return node
    freeze([node], f"sliced at a computed index, {where}")
    return atom(size, f"sliced at a computed index, {where}")


def rewrite_slice_sizes(
    equation: Equation, operands: Values, results: Values, kept: Kept
) -> dict[str, Any]:
    """Whole axes are taken whole."""
    sizes = tuple(
        new_size(node, kept) if is_touched(node, kept) else size
        for node, size in zip(operands[0].axes, equation.params["slice_sizes"])
    )
    return {**equation.params, "slice_sizes": sizes}


def dynamic_update_slice(
    equation: Equation, operands: Values, where: str
) -> list[Value]:
    """Axes that are replaced whole are the same on both sides."""
    x, update = operands[:2]
    for a, b in zip(x.axes, update.axes):
        if a.size == b.size:
            unify(a, b, where)
        else:
            freeze([a, b], f"updated in part, {where}")
    zeros = vanishing([x.zeros, update.zeros])
    return [Value(x.axes, zeros, vanishing([x.layers, update.layers]))]


def gather(equation: Equation, operands: Values, where: str) -> list[Value]:
    """An embedding: whole axes go through, an indexed one is frozen."""
    x, indices = operands
    numbers, sizes = (
        equation.params["dimension_numbers"],
        equation.params["slice_sizes"],
    )
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    through = [i for i in range(len(x.axes)) if i not in gone]
    for axis in numbers.collapsed_slice_dims:
        freeze([x.axes[axis]], f"indexed, {where}")
    for mine, other in zip(
        numbers.operand_batching_dims, numbers.start_indices_batching_dims
    ):
        unify(x.axes[mine], indices.axes[other], where)
    rows = iter(indices.axes[:-1])
    kept = iter([(_whole(x.axes[i], sizes[i], where), x.zeros[i]) for i in through])
    axes, zeros = [], []
    for axis in range(len(shape_of(equation.outvars[0]))):
        offset = axis in numbers.offset_dims
        node, zero = next(kept) if offset else (next(rows), False)
        axes.append(node)
        zeros.append(zero)
    return [Value(tuple(axes), tuple(zeros), x.layers)]


def rewrite_shape(
    equation: Equation, operands: Values, results: Values, kept: Kept
) -> dict[str, Any]:
    """The sizes of the result, wherever an operation names them."""
    shape = tuple(new_size(node, kept) for node in results[0].axes)
    name = {primitives.reshape_p: "new_sizes"}.get(equation.primitive, "shape")
    return {**equation.params, name: shape}


def random_bits(equation: Equation, operands: Values, where: str) -> list[Value]:
    """Drawn anew at any size."""
    layers = (False,) * len(operands[0].layers)
    shape = shape_of(equation.outvars[0])
    return [Value(tuple(map(atom, shape)), (False,) * len(shape), layers)]


RULES = {
    primitives.transpose_p: transpose,
    primitives.squeeze_p: squeeze,
    primitives.broadcast_in_dim_p: broadcast_in_dim,
    primitives.reshape_p: reshape,
    primitives.rev_p: rev,
    primitives.slice_p: slice_,
    split_p: split,
    primitives.concatenate_p: concatenate,
    primitives.pad_p: pad,
    primitives.dynamic_slice_p: dynamic_slice,
    primitives.dynamic_update_slice_p: dynamic_update_slice,
    primitives.gather_p: gather,
    primitives.random_bits_p: random_bits,
}
REWRITES = {
    primitives.broadcast_in_dim_p: rewrite_shape,
    primitives.reshape_p: rewrite_shape,
    primitives.random_bits_p: rewrite_shape,
    primitives.slice_p: rewrite_slice,
    split_p: rewrite_split,
    primitives.dynamic_slice_p: rewrite_slice_sizes,
    primitives.gather_p: rewrite_slice_sizes,
}
