"""What an axis is made of: atoms, products of them, and concatenations.

Two axes that a program puts side by side are the same, so they are *unified*: an atom
becomes whatever the other one is; a product and a product split each other into common
factors; concatenations split each other into common segments. Where that fails, both
are frozen, which is always right: what is frozen is not pruned. First-order unification
(Robinson 1965) with refinement.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from compress.annotations import Bool, Int

ATOM, PRODUCT, SUM = "atom", "product", "sum"


@dataclasses.dataclass(eq=False)
class Node:
    """An axis, or a part of one.

    Attributes:
      size: How many indices; may be symbolic, for a batch.
      kind: `atom`; `product` of parts, the major one first; or `sum`, end to end.
      parts: Of a product or a sum.
      bound: What this turned out to be the same as, or None.
      reasons: Why it must keep its size; of atoms.
      summed: Where values are added up along it that vanish only if what writes them
        is zero; of atoms.
      number: Counts up; of two atoms that are the same the older one stays.
    """

    size: Any
    kind: str = ATOM
    parts: tuple["Node", ...] = ()
    bound: "Node | None" = None
    reasons: dict[str, None] = dataclasses.field(default_factory=dict)
    summed: dict[str, None] = dataclasses.field(default_factory=dict)
    number: int = dataclasses.field(default_factory=itertools.count().__next__)


def find(node: Node) -> Node:
    """What a node is, after all that was unified with it."""
    while node.bound is not None:
        if node.bound.bound is not None:
            node.bound = node.bound.bound
        node = node.bound
    return node


def atom(size: Any, reason: str | None = None) -> Node:
    """A new axis, of which nothing is known; frozen if there is a reason."""
    # Some primitives hold NumPy's integers.
    size = int(size) if isinstance(size, np.integer) else size
    return Node(size, reasons={reason: None} if reason else {})


def atoms(shape: Sequence[Any], reason: str | None = None) -> tuple[Node, ...]:
    """A new axis for each size."""
    return tuple(atom(size, reason) for size in shape)


def is_one(size: Any) -> bool:
    """Whether there is nothing to prune; a symbolic size is not one."""
    return isinstance(size, int) and size == 1


def product(nodes: Sequence[Node]) -> Node:
    """Axes merged into one, the major one first."""
    parts = [part for node in nodes for part in factors(node)]
    if len(parts) <= 1:
        return parts[0] if parts else atom(1)
    return Node(math.prod(part.size for part in parts), PRODUCT, tuple(parts))


def concatenation(nodes: Sequence[Node]) -> Node:
    """Axes put end to end."""
    parts = [part for node in nodes for part in segments(node)]
    if len(parts) == 1:
        return parts[0]
    return Node(sum(part.size for part in parts), SUM, tuple(parts))


def factors(node: Node) -> list[Node]:
    """The factors of an axis, the major one first; none of size one."""
    node = find(node)
    if node.kind == PRODUCT:
        return [factor for part in node.parts for factor in factors(part)]
    return [] if is_one(node.size) else [node]


def segments(node: Node) -> list[Node]:
    """The segments of an axis, in order."""
    node = find(node)
    if node.kind == SUM:
        return [segment for part in node.parts for segment in segments(part)]
    return [node]


def leaves(node: Node) -> Iterator[Node]:
    """The atoms an axis is made of; one that is there twice comes twice."""
    node = find(node)
    if node.kind == ATOM:
        yield node
    for part in node.parts:
        yield from leaves(part)


def freeze(nodes: Sequence[Node], reason: str) -> None:
    """Keeps the sizes of axes as they are."""
    for node in nodes:
        for leaf in leaves(node):
            leaf.reasons[reason] = None


def unify(a: Node, b: Node, where: str) -> None:
    """Makes two axes of one size the same; freezes both where they do not fit."""
    a, b = find(a), find(b)
    if a is b:
        return
    if b.kind == ATOM and (a.kind != ATOM or a.number < b.number):
        a, b = b, a
    if a.kind == ATOM:
        _bind(a, b)
    elif a.kind == b.kind == PRODUCT:
        _unify_products(a, b, where)
    elif a.kind == b.kind == SUM:
        _unify_sums(a, b, where)
    else:
        _unify_mixed(*((a, b) if a.kind == PRODUCT else (b, a)), where)


def _bind(a: Node, other: Node) -> None:
    for leaf in leaves(other):
        leaf.reasons.update(a.reasons)
        leaf.summed.update(a.summed)
    a.bound = other


def _unify_products(a: Node, b: Node, where: str) -> None:
    xs, ys = factors(a), factors(b)
    while xs and ys:
        x, y = find(xs[-1]), find(ys[-1])
        if PRODUCT in (x.kind, y.kind):  # refined meanwhile
            xs, ys = [*xs[:-1], *factors(x)], [*ys[:-1], *factors(y)]
        elif x.size == y.size:
            unify(x, y, where)
            xs.pop(), ys.pop()
        elif not _halve(xs, y.size) and not _halve(ys, x.size):
            freeze([*xs, *ys], f"merged with other sizes, {where}")
            return


def _halve(nodes: list[Node], size: Any) -> bool:
    """Splits off a minor factor of this size from the last node, if it has one."""
    last = find(nodes[-1])
    if last.kind != ATOM or not divides(size, last.size):
        return False
    major, minor = atom(last.size // size), atom(size)
    _bind(last, product([major, minor]))
    nodes[-1:] = [major, minor]
    return True


def divides(size: Any, whole: Any) -> bool:
    """Whether a size is known to divide another one, larger than it."""
    known = isinstance(size, int) and isinstance(whole, int)
    return known and 1 < size < whole and whole % size == 0


def _unify_sums(a: Node, b: Node, where: str) -> None:
    xs, ys = segments(a)[::-1], segments(b)[::-1]
    while xs and ys:
        x, y = xs.pop(), ys.pop()
        if not isinstance(x.size, int) or not isinstance(y.size, int):
            freeze([x, y, *xs, *ys], f"joined to an axis of unknown size, {where}")
            return
        if x.size != y.size:
            longer, others = (x, xs) if x.size > y.size else (y, ys)
            shorter = min(x.size, y.size)
            parts = [atom(shorter), atom(longer.size - shorter)]
            unify(longer, concatenation(parts), where)
            others.append(parts[1])
            x, y = (parts[0], y) if longer is x else (x, parts[0])
        unify(x, y, where)


def _unify_mixed(merged: Node, joined: Node, where: str) -> None:
    """A product that is also a concatenation: of parts of its major factor."""
    lead, *rest = factors(merged)
    inner, parts = math.prod(node.size for node in rest), segments(joined)
    sizes = [part.size for part in parts]
    if not all(isinstance(x, int) and x % inner == 0 for x in sizes):
        freeze([merged, joined], f"cut across its factors, {where}")
        return
    pieces = atoms([size // inner for size in sizes])
    unify(lead, concatenation(pieces), where)
    for part, piece in zip(parts, pieces, strict=True):
        unify(part, product([piece, *rest]), where)


# For each atom that loses some: which of its units are kept.
Kept = Mapping[Node, Bool[np.ndarray, "units"]]


def is_touched(node: Node, kept: Kept) -> bool:
    """Whether an axis loses any of its indices."""
    return any(leaf in kept for leaf in leaves(node))


def size_with(node: Node, sizes: Mapping[Node, int]) -> Any:
    """The size of an axis when some of its atoms have other sizes."""
    node = find(node)
    if node.kind == ATOM:
        return sizes.get(node, node.size)
    parts = [size_with(part, sizes) for part in node.parts]
    return math.prod(parts) if node.kind == PRODUCT else sum(parts)


def new_size(node: Node, kept: Kept) -> Any:
    """The size of an axis after pruning."""
    return size_with(node, {leaf: int(mask.sum()) for leaf, mask in kept.items()})


def kept_mask(node: Node, kept: Kept) -> Bool[np.ndarray, "size"]:
    """Which indices of an axis are kept."""
    node = find(node)
    if node.kind == ATOM:
        return kept[node] if node in kept else np.ones(node.size, bool)
    masks = [kept_mask(part, kept) for part in node.parts]
    if node.kind == SUM:
        return np.concatenate(masks)
    merged = masks[0]
    for mask in masks[1:]:
        merged = (merged[:, None] & mask).ravel()
    return merged


def unit_of(node: Node, leaf: Node) -> Int[np.ndarray, "size"]:
    """For each index of an axis, the unit of an atom it belongs to; -1 for none."""
    node = find(node)
    if node.kind == ATOM:
        same = node is leaf
        return np.arange(node.size) if same else np.full(node.size, -1)
    units = [unit_of(part, leaf) for part in node.parts]
    if node.kind == SUM:
        return np.concatenate(units)
    merged = units[0]
    for unit in units[1:]:
        merged = np.maximum(merged[:, None], unit).ravel()
    return merged
