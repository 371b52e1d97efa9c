"""Groups: the axes of parameters that must lose the same units together.

A unit (a hidden unit, a channel, an attention head, a pair of rotated dimensions, a
layer) can be removed from a network if it is removed from every parameter that writes
it, reads it or goes along with it. Which those are follows from the traced program.
Source: Fang et al. 2023 (DepGraph), https://arxiv.org/abs/2301.12900, has the idea for
modules; here axes are followed through every equation.
"""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from compress.annotations import Int
from compress.interpret.axes import WINDOW, Node, leaves, size_with
from compress.sites.find import flat_paths
from compress.sites.patterns import as_list, glob, nearest_names


class Member(NamedTuple):
    """An axis of a parameter that goes with a group.

    Attributes:
      path: Of the parameter; model state has the prefix `model_state/`.
      axis: Of the parameter.
      indices: `[units, per_unit]`: the positions along the axis that go with each unit.
      reads: Whether a site sums over the axis.
      writes: Whether the axis is an output of a site. A member that neither reads nor
        writes is a vector (a bias, a norm's scale) or an embedding.
      layer_axis: The parameter's axis that stacks scanned layers, where each layer may
        keep other units.
    """

    path: str
    axis: int
    indices: Int[np.ndarray, "units per_unit"]
    reads: bool
    writes: bool
    layer_axis: int | None


class Group(NamedTuple):
    """Units that can be removed one by one, each from all members at once.

    Attributes:
      name: `blocks/mlp/up/kernel:1`, the first member that writes the units and its
        axis; with `.0`, `.1` for the factors or segments of one axis.
      kind: `units`, or `depth`: layers of a residual scan.
      size: Number of units, in each layer.
      layers: Number of layers, if each may keep its own units (equally many).
      members: Where the units are.
      frozen: Why none can be removed, or None.
      summed: Where units are summed up other than by weights that read them, as in a
        norm: there they count as zero. None if only weights read them.
      signature: The same for groups of the same roles and operations.
      parameters: What one unit saves, all layers together.
      macs: What one unit saves for the inputs given.
    """

    name: str
    kind: Literal["units", "depth"]
    size: int
    layers: int | None
    members: tuple[Member, ...]
    frozen: str | None
    summed: str | None
    signature: str
    parameters: int
    macs: int


@dataclasses.dataclass(frozen=True)
class Groups:
    """The groups of a model; printed, a table.

    Attributes:
      groups: In the order of the parameters.
      atoms: By name of a group, what it is in `shapes` and `contractions`.
      shapes: The axes of every parameter and array of model state, by path.
      contractions: The axes whose sizes multiply to the products of each contraction.
    """

    groups: tuple[Group, ...]
    atoms: Mapping[str, Node]
    shapes: Mapping[str, tuple[Node, ...]]
    contractions: tuple[tuple[Node, ...], ...]

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, name: str) -> Group:
        for group in self.groups:
            if group.name == name:
                return group
        names = [group.name for group in self.groups]
        raise KeyError(f"no group {name!r}. The nearest: {nearest_names(name, names)}.")

    @property
    def free(self) -> tuple[Group, ...]:
        """Those that can lose units."""
        return tuple(group for group in self.groups if group.frozen is None)

    def parameters(self, sizes: Mapping[str, int] | None = None) -> int:
        """How many parameters there are if some groups have other sizes."""
        own = self._sizes(sizes)
        return sum(
            math.prod(size_with(node, own) for node in axes)
            for path, axes in self.shapes.items()
            if not path.startswith(STATE)
        )

    def macs(self, sizes: Mapping[str, int] | None = None) -> int:
        """Likewise multiply-accumulates, for the inputs given."""
        own = self._sizes(sizes)
        return sum(
            math.prod(size_with(node, own) for node in axes)
            for axes in self.contractions
        )

    def saved_by_one(self, leaf: Node) -> tuple[int, int]:
        """Parameters and multiply-accumulates that one unit of an atom saves."""
        smaller = {leaf: leaf.size - 1}
        saved = [0, 0]
        for which, table in enumerate(self._uses):
            for axes in table.get(leaf, ()):
                full = math.prod(node.size for node in axes)
                saved[which] += full - math.prod(size_with(n, smaller) for n in axes)
        return saved[0], saved[1]

    @functools.cached_property
    def _uses(self) -> tuple[dict[Node, list[Any]], dict[Node, list[Any]]]:
        """By atom, the parameters and the contractions it is an axis of."""
        parameters = [x for p, x in self.shapes.items() if not p.startswith(STATE)]
        return _by_atom(parameters), _by_atom(self.contractions)

    def _sizes(self, sizes: Mapping[str, int] | None) -> dict[Node, int]:
        return {self.atoms[name]: size for name, size in (sizes or {}).items()}

    def tree(self, params: Any) -> Any:
        """For programs: like the parameters, for each a tuple of its axes' groups.

        An axis is the tuple of the names of the free groups on it. Tuples are leaves.
        """
        names: dict[tuple[str, int], tuple[str, ...]] = {}
        for group in self.free:
            for member in group.members:
                key = (member.path, member.axis)
                names[key] = (*names.get(key, ()), group.name)
        leaves_, structure = jax.tree.flatten(params)
        axes = [
            tuple(names.get((path, axis), ()) for axis in range(len(leaf.shape)))
            for path, leaf in zip(flat_paths(params), leaves_, strict=True)
        ]
        return jax.tree.unflatten(structure, axes)

    def matching(
        self,
        patterns: str | Sequence[str] = "**",
        exclude: str | Sequence[str] = (),
        *,
        user: str,
    ) -> list[Group]:
        """The free groups that match any of `patterns` and none of `exclude`.

        Args:
          patterns: Globs on the names of groups or the paths of their members.
          exclude: Likewise.
          user: Who asks, for the message.

        Raises:
          ValueError: If a pattern matches no group, or only frozen ones (it says why),
            or if nothing is left.
        """
        patterns, exclude = as_list(patterns), as_list(exclude)
        for pattern in [*patterns, *exclude]:
            self._check_pattern(pattern, user)
        found = [
            group
            for group in self.free
            if any(_matches(pattern, group) for pattern in patterns)
            and not any(_matches(pattern, group) for pattern in exclude)
        ]
        if not found:
            raise ValueError(
                f"{user}: exclude={list(exclude)} leaves none of the groups that "
                f"{list(patterns)} matches. Exclude less."
            )
        return found

    def _check_pattern(self, pattern: str, user: str) -> None:
        found = [group for group in self.groups if _matches(pattern, group)]
        if not found:
            names = [group.name for group in self.groups]
            raise ValueError(
                f'{user}: "{pattern}" matches none of {len(names)} groups. The '
                f"nearest: {nearest_names(pattern, names)}."
            )
        if all(group.frozen for group in found):
            reasons = [f"{group.name} ({group.frozen})" for group in found[:3]]
            raise ValueError(
                f'{user}: "{pattern}" matches only groups that cannot lose units: '
                f"{', '.join(reasons)}. Name others, or change the model there."
            )

    def __str__(self) -> str:
        """A table of the free groups, and the frozen ones with their reasons."""
        head = ("group", "kind", "size", "params/unit", "MACs/unit", "members")
        rows = [head, *map(_row, self.free)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
            for row in rows
        ]
        frozen = [g for g in self.groups if g.frozen and WINDOW not in g.frozen]
        lines += ["", f"frozen: {len(frozen)} axes"] if frozen else []
        lines += [f"  {g.name} ({g.size}): {g.frozen}" for g in frozen]
        return "\n".join(lines)


STATE = "model_state/"


def _by_atom(products: Sequence[Sequence[Node]]) -> dict[Node, list[Any]]:
    found: dict[Node, list[Any]] = {}
    for axes in products:
        for leaf in {leaf for node in axes for leaf in leaves(node)}:
            found.setdefault(leaf, []).append(axes)
    return found


def _row(group: Group) -> tuple[str, ...]:
    layers = f" x {group.layers} layers" if group.layers else ""
    members = Counter(f"{m.path}:{m.axis}" for m in group.members)
    return (
        group.name,
        group.kind,
        f"{group.size}{layers}",
        f"{group.parameters:,}",
        f"{group.macs:,}",
        ", ".join(members),
    )


def _matches(pattern: str, group: Group) -> bool:
    names = [group.name, *(member.path for member in group.members)]
    return any(re.fullmatch(glob(pattern), name) for name in names)
