"""The members of a group: sums over the weights of each unit, and their masks."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from compress.annotations import Array, Bool, Float, Int, PyTree
from compress.interpret import Quantized
from compress.sites import Group, Member, flatten_parameters

# One number per unit: [units], or [layers, units] if each layer keeps its own.
UnitArray = Float[Array, "..."]
UnitMask = Bool[Array, "..."]


def unit_shape(group: Group) -> tuple[int, ...]:
    """The shape of one number per unit."""
    return (group.size,) if group.layers is None else (group.layers, group.size)


def unit_sums(values: Mapping[str, Array], group: Group) -> UnitArray:
    """For each unit the sum of `values` over all its weights, each counted once.

    A weight that two members share (a square matrix with the group on both axes, a
    parameter that two sites read) is counted once.

    Args:
      values: By parameter path, shaped like the parameter; paths that are missing
        (model state) count nothing.
      group: Whose members are summed over.
    """
    total = jnp.zeros(unit_shape(group), jnp.float32)
    for path, members in members_by_path(group).items():
        if path in values:
            total = total + _sums_of_one(values[path], members, group)
    return total


def members_by_path(group: Group) -> dict[str, list[Member]]:
    """The members of each parameter, one per axis."""
    merged: dict[tuple[str, int], Member] = {}
    for member in group.members:
        key = (member.path, member.axis)
        merged[key] = _joined(merged[key], member) if key in merged else member
    by_path: dict[str, list[Member]] = {}
    for member in merged.values():
        by_path.setdefault(member.path, []).append(member)
    return by_path


def _joined(first: Member, second: Member) -> Member:
    """Two members on the same axis, such as two segments of a fused kernel."""
    both = np.concatenate([first.indices, second.indices], axis=1)
    indices = np.stack([np.unique(row) for row in both])
    return first._replace(
        indices=indices,
        reads=first.reads or second.reads,
        writes=first.writes or second.writes,
    )


def _sums_of_one(
    value: Array, members: Sequence[Member], group: Group
) -> Float[Array, "..."]:
    """Inclusion and exclusion over the axes that belong to the group."""
    value = value.astype(jnp.float32)
    total = jnp.zeros(unit_shape(group), jnp.float32)
    for count in range(1, len(members) + 1):
        for subset in itertools.combinations(members, count):
            term = _sum_where_all(value, subset, group.layers is not None)
            sign = 1.0 if count % 2 else -1.0
            total = total + sign * jnp.broadcast_to(term, total.shape)
    return total


def _sum_where_all(
    value: Array, members: Sequence[Member], layered: bool
) -> Float[Array, "..."]:
    """The sum of the elements that lie on every one of these axes of the unit."""
    layer_axis = members[0].layer_axis if layered else None
    front = [] if layer_axis is None else [layer_axis]
    front = [*front, *(member.axis for member in members)]
    value = jnp.moveaxis(value, front, range(len(front)))
    value = value.sum(axis=tuple(range(len(front), value.ndim)))
    count = len(members)
    picks = []
    for position, member in enumerate(members):
        shape = [member.indices.shape[0], *[1] * count]
        shape[1 + position] = member.indices.shape[1]
        picks.append(member.indices.reshape(shape))
    picked = value[(Ellipsis, *picks)]
    return picked.sum(axis=tuple(range(picked.ndim - count, picked.ndim)))


def masked_units(
    params: PyTree, groups: Iterable[Group], alive: Mapping[str, UnitMask]
) -> PyTree:
    """The masked twin: every weight of a removed unit is zero.

    With the readers of a unit at zero nothing of it reaches the outputs, so the twin
    computes what the shrunk model does.

    Args:
      params: The parameters.
      groups: Of the model; those not in `alive` are left alone.
      alive: By group name, True where the unit is kept.
    """
    wanted = [group for group in groups if group.name in alive]
    paths, leaves, structure = flatten_parameters(params)
    by_path: dict[str, list[tuple[Member, UnitMask]]] = {}
    for group in wanted:
        for member in group.members:
            by_path.setdefault(member.path, []).append((member, alive[group.name]))
    masked = [
        _zero_where(leaf, removed_weights(np.shape(_values(leaf)), by_path[path]))
        if path in by_path
        else leaf
        for path, leaf in zip(paths, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, masked)


def removed_weights(
    shape: Sequence[int], members: Iterable[tuple[Member, UnitMask]]
) -> Bool[Array, "..."]:
    """True for the weights of removed units, broadcastable to `shape`."""
    removed = jnp.zeros((1,) * len(shape), bool)
    for member, alive in members:
        removed = removed | ~_laid_out(member, alive, shape)
    return removed


def _laid_out(
    member: Member, alive: UnitMask, shape: Sequence[int]
) -> Bool[Array, "..."]:
    """The mask of units along the axes of the parameter."""
    positions = jnp.repeat(alive, member.indices.shape[1], axis=-1)
    start = jnp.ones((*alive.shape[:-1], shape[member.axis]), bool)
    kept = start.at[..., member.indices.ravel()].set(positions)
    sizes = [1] * len(shape)
    sizes[member.axis] = shape[member.axis]
    if member.layer_axis is not None and alive.ndim == 2:
        sizes[member.layer_axis] = shape[member.layer_axis]
        kept = kept if member.layer_axis < member.axis else kept.T
    return kept.reshape(sizes)


def _zero_where(leaf: Any, removed: Bool[Array, "..."]) -> Any:
    if isinstance(leaf, Quantized):
        return dataclasses.replace(leaf, qvalue=_zero_where(leaf.qvalue, removed))
    return jnp.where(removed, jnp.zeros_like(leaf), leaf)


def _values(leaf: Any) -> Any:
    return leaf.qvalue if isinstance(leaf, Quantized) else leaf


def find_revived(
    seen: PyTree, groups: Sequence[Group], alive: Mapping[str, UnitMask]
) -> dict[str, int]:
    """By group, how many weights of removed units are not zero."""
    paths, leaves, _ = flatten_parameters(seen)
    values = {p: jnp.asarray(_values(x)) for p, x in zip(paths, leaves, strict=True)}

    @jax.jit
    def count(values: Any, alive: Any) -> Any:
        return {g.name: _count_revived(values, g, alive[g.name]) for g in groups}

    return {name: int(n) for name, n in count(values, dict(alive)).items() if n}


def _count_revived(
    values: Mapping[str, Array], group: Group, alive: UnitMask
) -> Int[Array, ""]:
    total = jnp.zeros((), jnp.int32)
    for member in group.members:
        if member.path in values:
            value = values[member.path]
            removed = removed_weights(value.shape, [(member, alive)])
            total += jnp.sum((value != 0) & removed, dtype=jnp.int32)
    return total


def depth_of(group: Group, depths: Sequence[Group]) -> Group | None:
    """The group of layers that the rows of a group with layers belong to."""
    if group.layers is None:
        return None
    paths = {member.path for member in group.members}
    for depth in depths:
        if depth.size == group.layers and any(m.path in paths for m in depth.members):
            return depth
    return None
