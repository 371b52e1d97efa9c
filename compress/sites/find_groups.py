"""Finds the groups of any JAX function by tracing it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from compress.interpret import Location, trace
from compress.interpret.axes import (
    Axes,
    Node,
    Value,
    atoms,
    find,
    find_axes,
    freeze,
    is_one,
    leaves,
    unify,
    unit_of,
)
from compress.interpret.program import Program
from compress.sites.find import find_sites_in, flat_paths
from compress.sites.groups import STATE, Group, Groups, Member
from compress.sites.site import Sites


class Traced(NamedTuple):
    """A program with the axes of its values.

    Attributes:
      program: `forward(params, *inputs)`, or with model state after the parameters.
      axes: Of every value.
      parameters: By path, what is known of each parameter and array of model state.
    """

    program: Program
    axes: Axes
    parameters: dict[str, Value]


def trace_axes(
    forward: Callable[..., Any], params: Any, *inputs: Any, model_state: Any = None
) -> Traced:
    """Traces a function and follows the axes of its parameters through it."""
    stateful = model_state is not None
    arguments = (params, model_state, *inputs) if stateful else (params, *inputs)
    program = trace(forward, *arguments)
    paths = parameter_names(params, model_state)
    avals = [variable.aval for variable in program.jaxpr.invars]
    values = [
        *(_parameter(path, aval.shape) for path, aval in zip(paths, avals)),
        *(_input(aval.shape) for aval in avals[len(paths) :]),
    ]
    axes, results = find_axes(program, values)
    states = [x for path, x in zip(paths, values) if path.startswith(STATE)]
    _tie_results(results, states)
    return Traced(program, axes, dict(zip(paths, values)))


def parameter_names(params: Any, model_state: Any) -> list[str]:
    """The paths of parameters, and with a prefix those of the model state."""
    states = [] if model_state is None else flat_paths(model_state)
    return [*flat_paths(params), *(STATE + path for path in states)]


def _parameter(path: str, shape: Sequence[int]) -> Value:
    return Value(atoms(shape), (True,) * len(shape), path=path, weight=True)


def _input(shape: Sequence[Any]) -> Value:
    return Value(atoms(shape, "an axis of the model's input"), (False,) * len(shape))


def _tie_results(results: Sequence[Value], states: Sequence[Value]) -> None:
    """The new model state has the axes of the old one; other results keep theirs."""
    first = len(results) - len(states)
    for result in results[:first]:
        freeze(result.axes, "an axis of the model's output")
    for result, state in zip(results[first:], states, strict=True):
        for a, b in zip(result.axes, state.axes, strict=True):
            unify(a, b, "the new model state")


def find_groups(
    forward: Callable[..., Any], params: Any, *inputs: Any, model_state: Any = None
) -> Groups:
    """Finds which axes of the parameters must lose the same units together.

    Args:
      forward: Any JAX function of parameters and inputs.
      params: A pytree of arrays or `jax.ShapeDtypeStruct`s.
      *inputs: Example inputs, likewise.
      model_state: Batch statistics and the like; then `forward` takes them after the
        parameters and returns `(outputs, new model state)`.

    Returns:
      The groups, free and frozen; printed, a table.
    """
    traced = trace_axes(forward, params, *inputs, model_state=model_state)
    sites = find_sites_in(traced.program, params)
    return _groups(traced, sites)


def _groups(traced: Traced, sites: Sites) -> Groups:
    found = _members(traced, sites)
    contexts = _contexts(traced.axes)
    lengths = {find(node) for node in traced.axes.scans.values()}
    named = {_name(members): (leaf, members) for leaf, members in found.items()}
    shapes = {path: value.axes for path, value in traced.parameters.items()}
    contractions = tuple(map(tuple, traced.axes.contractions.values()))
    atoms_by_name = {name: leaf for name, (leaf, _) in named.items()}
    empty = Groups((), atoms_by_name, shapes, contractions)
    groups = []
    for name, (leaf, members) in named.items():
        layers = _layers(leaf, members, contexts, traced)
        parameters, macs = empty.saved_by_one(leaf)
        groups.append(
            Group(
                name=name,
                kind="depth" if leaf in lengths else "units",
                size=leaf.size,
                layers=layers,
                members=tuple(_with_layers(m, layers) for m, _ in members),
                frozen=_frozen(leaf, [m for m, _ in members], leaf in lengths),
                summed=next(iter(leaf.summed), None),
                signature=_signature(members, traced, sites),
                parameters=parameters,
                macs=macs,
            )
        )
    return Groups(tuple(groups), atoms_by_name, shapes, contractions)


# A member, and which of the atoms of its axis it is.
_Found = list[tuple[Member, int | None]]


def _members(traced: Traced, sites: Sites) -> dict[Node, _Found]:
    """By atom, every place in the parameters where it is."""
    reads, writes = _roles(sites)
    found: dict[Node, _Found] = {}
    for path, value in traced.parameters.items():
        for axis, node in enumerate(value.axes):
            inside = list(leaves(node))
            distinct = list(dict.fromkeys(inside))
            for number, leaf in enumerate(distinct):
                if is_one(leaf.size):
                    continue
                indices = _indices(node, leaf)
                if indices is None:
                    freeze([leaf], f"it is more than once in {path}:{axis}")
                    indices = np.zeros((leaf.size, 0), int)
                key = (path, axis)
                member = Member(path, axis, indices, key in reads, key in writes, None)
                several = number if len(distinct) > 1 else None
                found.setdefault(leaf, []).append((member, several))
    return found


def _indices(node: Node, leaf: Node) -> np.ndarray | None:
    """The positions of each unit along an axis; None if some have two units."""
    unit = unit_of(node, leaf)
    counts = np.bincount(unit[unit >= 0], minlength=leaf.size)
    if len(set(counts.tolist())) != 1 or _repeats(node, leaf):
        return None
    order = np.argsort(unit, kind="stable")
    return order[len(unit) - counts.sum() :].reshape(leaf.size, -1)


def _repeats(node: Node, leaf: Node) -> bool:
    """Whether an atom is in two factors of a product."""
    node = find(node)
    inside = [leaf in set(leaves(part)) for part in node.parts]
    if node.kind == "product" and sum(inside) > 1:
        return True
    return any(_repeats(part, leaf) for part in node.parts)


def _roles(sites: Sites) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
    """The axes of parameters that sites sum over, and those that are their outputs."""
    reads, writes = set(), set()
    for site in sites:
        if site.path is not None:
            reads.update((site.path, axis) for axis in site.contracting)
            writes.update((site.path, axis) for axis in site.output)
    return reads, writes


def _name(members: _Found) -> str:
    member, number = next((x for x in members if x[0].writes), members[0])
    part = "" if number is None else f".{number}"
    return f"{member.path}:{member.axis}{part}"


def _frozen(leaf: Node, members: Sequence[Member], depth: bool) -> str | None:
    if leaf.reasons:
        return next(iter(leaf.reasons))
    if depth:
        return None
    if all(m.reads and not m.writes for m in members):
        return "no parameter writes it"
    return None


def _contexts(axes: Axes) -> dict[Node, set[tuple[Location, ...]]]:
    """By atom, the scans within which values have it."""
    found: dict[Node, set[tuple[Location, ...]]] = {}
    for scans, node in axes.places:
        for leaf in leaves(node):
            found.setdefault(leaf, set()).add(scans)
    return found


def _layers(
    leaf: Node,
    members: _Found,
    contexts: dict[Node, set[tuple[Location, ...]]],
    traced: Traced,
) -> int | None:
    """How many layers may each keep their own units: those of one scan around all."""
    around = contexts.get(leaf, set())
    for scan, length in traced.axes.scans.items():
        stacked = all(
            find(traced.parameters[m.path].axes[0]) is find(length) and m.axis > 0
            for m, _ in members
        )
        if stacked and around and all(scan in scans for scans in around):
            return length.size
    return None


def _with_layers(member: Member, layers: int | None) -> Member:
    return member._replace(layer_axis=None if layers is None else 0)


def _signature(members: _Found, traced: Traced, sites: Sites) -> str:
    operations = {site.path: site.op for site in sites}
    parts = []
    for member, number in members:
        shape = traced.parameters[member.path].shape
        role = f"{'r' * member.reads}{'w' * member.writes}" or "v"
        where = f"{member.axis}/{len(shape)}" + ("" if number is None else f".{number}")
        parts.append(f"{role} {operations.get(member.path, '-')} {where}")
    return "; ".join(sorted(parts))
