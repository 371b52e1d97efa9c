"""What the selection of units was asked to do, checked against the groups."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from compress.prune.structured.costs import (
    Cost,
    Polynomial,
    macs_of,
    parameters_of,
    polynomial_in,
)
from compress.prune.structured.normalise import NORMALIZATIONS
from compress.prune.structured.scores import SCORES
from compress.sites import Group, Groups

USER = "prune.structured"
BUDGETS = ("parameters", "macs", "bops")
ALLOCATIONS = ("global", "uniform")


class Settings(NamedTuple):
    """The arguments that `structured` and `choose_units` share."""

    groups: Groups
    budget: Mapping[str, float]
    score: str = "l2"
    normalize: str = "mean"
    round_to: int = 8
    min_units: int = 1
    names: str | Sequence[str] = "**"
    exclude: str | Sequence[str] = ()
    allocation: str = "global"
    drop_layers: int = 0
    bops: Cost | None = None


class Problem(NamedTuple):
    """A checked budget: what can go, in which steps, and what it costs.

    Attributes:
      kind: Of `BUDGETS`.
      target: Fraction of the cost that may be left.
      units: The groups that lose units.
      depths: The groups that lose whole layers.
      steps: By group in `units`, how many units are gone after each step, from 0.
      drop_layers: How many layers each of `depths` loses.
      cost: Of the model; its variables are `[*units, *depths]`.
    """

    kind: str
    target: float
    units: tuple[Group, ...]
    depths: tuple[Group, ...]
    steps: tuple[tuple[int, ...], ...]
    drop_layers: int
    cost: Polynomial

    @property
    def scored(self) -> tuple[Group, ...]:
        """Every group that loses something, in the order of the cost's variables."""
        return (*self.units, *self.depths)


def pose(settings: Settings) -> Problem:
    """Checks the settings against the groups.

    Raises:
      ValueError: If a setting is out of range, a pattern matches nothing or a frozen
        group, no group can lose units, or the budget cannot be met.
    """
    check_settings(settings)
    kind, target = budget_of(settings.budget)
    named = settings.groups.matching(settings.names, settings.exclude, user=USER)
    units = tuple(g for g in named if g.kind != "depth")
    depths = _depths(settings, named)
    allowed = {
        g.name: kept_sizes(g.size, settings.round_to, settings.min_units) for g in units
    }
    units = tuple(g for g in units if len(allowed[g.name]) > 1)
    if not units and not depths:
        raise ValueError(_nothing_can_go(settings, named))
    steps = tuple(tuple(g.size - kept for kept in allowed[g.name]) for g in units)
    cost = polynomial_in(cost_of(settings, kind), settings.groups, [*units, *depths])
    problem = Problem(kind, target, units, depths, steps, settings.drop_layers, cost)
    check_reachable(problem, settings)
    return problem


def kept_sizes(size: int, round_to: int, min_units: int) -> list[int]:
    """The sizes a group may have, from whole to smallest.

    Whole, or a multiple of `round_to` that is at least `min_units`: a group that is
    no larger than `round_to` stays whole.
    """
    multiples = range((size - 1) // round_to * round_to, 0, -round_to)
    return [size, *(kept for kept in multiples if kept >= min_units)]


def budget_of(budget: Mapping[str, float]) -> tuple[str, float]:
    """What is counted, and which fraction of it may be left."""
    if len(budget) != 1 or set(budget) - set(BUDGETS):
        latency = (
            " For a latency, choose_units(..., measure=) finds the MACs that meet it."
            if "latency" in budget
            else ""
        )
        raise ValueError(
            f"{USER}: budget={dict(budget)} must name one of {BUDGETS} and the "
            'fraction of it that is left, such as {"macs": 0.5}.' + latency
        )
    kind, target = next(iter(budget.items()))
    if not 0.0 < target <= 1.0:
        raise ValueError(
            f"{USER}: budget {kind}={target} must be above 0 and at most 1; it is the "
            "fraction that is left."
        )
    return kind, float(target)


def check_settings(settings: Settings) -> None:
    """Refuses settings that no model could be pruned with."""
    for name, value, allowed in (
        ("score", settings.score, SCORES),
        ("normalize", settings.normalize, NORMALIZATIONS),
        ("allocation", settings.allocation, ALLOCATIONS),
    ):
        if value not in allowed:
            raise ValueError(f"{USER}: {name}={value!r} must be one of {allowed}.")
    for name, value, least in (
        ("round_to", settings.round_to, 1),
        ("min_units", settings.min_units, 1),
        ("drop_layers", settings.drop_layers, 0),
    ):
        if value < least:
            raise ValueError(f"{USER}: {name}={value} must be at least {least}.")


def cost_of(settings: Settings, kind: str) -> Cost:
    """What counts the cost."""
    if kind == "parameters":
        return parameters_of(settings.groups)
    if kind == "macs":
        return macs_of(settings.groups)
    if settings.bops is None:
        raise ValueError(
            f"{USER}: a budget of bops needs the bits of each site. Give "
            "bops=prune.bops_of(groups, sites, bits)."
        )
    return settings.bops


def check_reachable(problem: Problem, settings: Settings) -> None:
    """Refuses a budget below what is left with every group at its smallest."""
    smallest = smallest_fraction(problem)
    if smallest > problem.target * (1 + 1e-9):
        raise ValueError(
            f"{USER}: a budget of {problem.kind}={problem.target:g} cannot be met: "
            f"with every group at its smallest (round_to={settings.round_to}, "
            f"min_units={settings.min_units}) {rounded_up(smallest)} of the "
            f"{problem.kind} are left. Ask for {rounded_up(smallest)} or more, lower "
            "round_to or min_units, or let more groups lose units."
        )


def smallest_fraction(problem: Problem) -> float:
    """What is left of the cost with every group at its smallest."""
    removed = [steps[-1] for steps in problem.steps]
    removed += [problem.drop_layers] * len(problem.depths)
    return float(problem.cost.value(np.array(removed, float))) / problem.cost.whole


def rounded_up(fraction: float) -> str:
    """For people, and still enough when typed back."""
    return f"{np.ceil(fraction * 1e4) / 1e4:.4f}"


def _depths(settings: Settings, named: Sequence[Group]) -> tuple[Group, ...]:
    if settings.drop_layers == 0:
        return ()
    depths = tuple(g for g in named if g.kind == "depth")
    if not depths:
        raise ValueError(
            f"{USER}: drop_layers={settings.drop_layers}, but no group of layers can "
            "lose any: only layers of a scan whose body adds to what it carries can be "
            "dropped. Set drop_layers=0."
        )
    for depth in depths:
        if settings.drop_layers >= depth.size:
            raise ValueError(
                f'{USER}: drop_layers={settings.drop_layers}, but "{depth.name}" has '
                f"{depth.size} layers. Drop at most {depth.size - 1}."
            )
    return depths


def _nothing_can_go(settings: Settings, named: Sequence[Group]) -> str:
    largest = max((g for g in named if g.kind != "depth"), key=_size, default=None)
    if largest is None:
        return (
            f"{USER}: only groups of layers are named. Set drop_layers, or name groups "
            "of units."
        )
    return (
        f"{USER}: round_to={settings.round_to} and min_units={settings.min_units} "
        f'leave every group whole: the largest, "{largest.name}", has '
        f"{largest.size} units. "
        f"Set round_to to at most {max(largest.size - 1, 1)}."
    )


def _size(group: Group) -> Any:
    return group.size
