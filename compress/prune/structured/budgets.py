"""Chooses the units that go so that a budget is met, exactly, on the host.

Greedy: what costs least importance per saved cost goes first, and what a step saves is
counted again at the sizes that are left, since costs are products of sizes. Smaller
budgets remove supersets of what larger ones do.
"""

import bisect
import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from compress.prune.structured.costs import Cost
from compress.prune.structured.keep import Keep, keep_of, sizes_of
from compress.prune.structured.latency import Measure, meet_latency
from compress.prune.structured.members import depth_of, unit_shape
from compress.prune.structured.normalise import normalise
from compress.prune.structured.settings import (
    USER,
    Problem,
    Settings,
    pose,
    rounded_up,
)
from compress.sites import Group, Groups


class Choice(NamedTuple):
    """The units that are kept.

    Attributes:
      keep: By group that loses units, the sorted indices of those kept.
      sizes: How many these are.
      budget: What was asked for, with a latency turned into MACs.
      left: Fraction that is left of the `parameters`, the `macs`, and the budget's own.
      measured: For a latency budget, the ratio measured at each fraction of MACs.
    """

    keep: Keep
    sizes: dict[str, int]
    budget: dict[str, float]
    left: dict[str, float]
    measured: tuple[tuple[float, float], ...] = ()


def choose_units(
    groups: Groups,
    scores: Mapping[str, Any],
    *,
    budget: Mapping[str, float],
    normalize: str = "mean",
    round_to: int = 8,
    min_units: int = 1,
    names: str | Sequence[str] = "**",
    exclude: str | Sequence[str] = (),
    allocation: str = "global",
    drop_layers: int = 0,
    bops: Cost | None = None,
    alive: Mapping[str, Any] | None = None,
    measure: Measure | None = None,
) -> Choice:
    """Chooses which units of the groups are kept.

    Args:
      groups: From `compress.find_groups`.
      scores: By group name, the importance of each unit; from `unit_scores`.
      budget: Of `parameters`, `macs`, `bops` or `latency`, the fraction to be left.
        Met with less than one step of `round_to` units to spare.
      normalize: `mean`, `none` or `isomorphic`: how groups become comparable.
      round_to: Widths are multiples of this. A group that loses nothing keeps its
        size; one no larger than `round_to` loses nothing.
      min_units: Every group keeps at least as many.
      names: Patterns of the groups that may lose units.
      exclude: Likewise, of those that may not.
      allocation: `global` ranks all groups together by score per saved cost, `uniform`
        takes the same fraction from each.
      drop_layers: How many layers each residual scan loses, those of least score,
        before any units go.
      bops: What counts bit operations; from `bops_of`.
      alive: By group name, True where a unit may be kept: those of a mask.
      measure: `(keep) -> latency` as a fraction of the whole model's; for a latency.

    Raises:
      ValueError: If a setting is out of range, a score is missing, NaN or negative, a
        pattern matches nothing or a frozen group, or the budget cannot be met.
    """
    settings = Settings(
        groups=groups,
        budget=budget,
        normalize=normalize,
        round_to=round_to,
        min_units=min_units,
        names=names,
        exclude=exclude,
        allocation=allocation,
        drop_layers=drop_layers,
        bops=bops,
    )
    if set(budget) == {"latency"}:
        at = lambda fraction: choose(  # noqa: E731
            settings._replace(budget={"macs": fraction}), scores, alive
        )
        return meet_latency(budget["latency"], at, measure, settings)
    if measure is not None:
        raise ValueError(
            f"{USER}: measure is for a budget of latency, not {dict(budget)}. Leave it "
            "out."
        )
    return choose(settings, scores, alive)


def choose(
    settings: Settings,
    scores: Mapping[str, Any],
    alive: Mapping[str, Any] | None = None,
) -> Choice:
    """`choose_units` with its settings as one value."""
    problem = pose(settings)
    ranking = _Ranking(problem, settings, scores, alive or {})
    removed = ranking.until_met()
    return _choice(settings, problem, ranking, removed)


class _Ranking:
    """The units of a problem in the order in which they go.

    Attributes:
      order: By group, the units in ascending order of importance, `[rows, units]`.
      losses: By group, the importance lost with the first so many units.
      removed: How many units each group has lost, layers last.
      parts: By group, the terms of the cost it is in.
    """

    def __init__(
        self,
        problem: Problem,
        settings: Settings,
        scores: Mapping[str, Any],
        alive: Mapping[str, Any],
    ) -> None:
        self.problem, self.settings = problem, settings
        kept = {g.name: _mask(g, alive) for g in problem.scored}
        known = {g.name: _checked(g, scores) for g in problem.scored}
        comparable = normalise(known, kept, problem.scored, settings.normalize, np)
        self.order: dict[str, np.ndarray] = {}
        self.losses: list[np.ndarray] = []
        self.removed = np.zeros(len(problem.scored))
        self.parts = [problem.cost.of(i) for i in range(len(problem.units))]
        self._drop_layers(comparable, kept)
        for index, group in enumerate(problem.units):
            self._rank_units(index, group, comparable[group.name], kept)

    def _drop_layers(self, scores: Mapping[str, Any], kept: dict[str, Any]) -> None:
        problem = self.problem
        for index, depth in enumerate(problem.depths, start=len(problem.units)):
            ranked = np.where(kept[depth.name], scores[depth.name], -1.0)
            order = np.argsort(ranked, stable=True)
            self.order[depth.name] = order[None]
            self.removed[index] = problem.drop_layers
            kept[depth.name] = ~np.isin(
                np.arange(depth.size), order[: problem.drop_layers]
            )

    def _rank_units(
        self, index: int, group: Group, score: np.ndarray, kept: Mapping[str, Any]
    ) -> None:
        """Sorts; what a mask has removed already goes first and costs nothing."""
        mask = np.atleast_2d(kept[group.name])
        ranked = np.where(mask, np.atleast_2d(score), -1.0)
        order = np.argsort(ranked, axis=-1, stable=True)
        lost = np.maximum(np.take_along_axis(ranked, order, axis=-1), 0.0)
        depth = depth_of(group, self.problem.depths)
        rows = np.ones(len(lost)) if depth is None else kept[depth.name].astype(float)
        self.order[group.name] = order
        self.losses.append(np.concatenate([[0.0], np.cumsum(rows @ lost)]))
        gone = int((~mask).sum(axis=-1).max())
        steps = self.problem.steps[index]
        self.removed[index] = next((s for s in steps if s >= gone), gone)

    def until_met(self) -> np.ndarray:
        """How many units each group has lost when the budget is met."""
        problem, cost = self.problem, self.problem.cost
        target = problem.target * cost.whole * (1 + 1e-9)
        left = float(cost.value(self.removed))
        steps = self._steps()
        while left > target:
            following = next(steps, None)
            if following is None:
                raise ValueError(_out_of_units(problem, left / cost.whole))
            index, gone = following
            self.removed[index] = gone
            left = float(cost.value(self.removed))
        return self.removed

    def _steps(self) -> Iterator[tuple[int, int]]:
        """The next step of some group, the cheapest first.

        What a step saves only shrinks as other groups do, so a stored priority is
        never too high: the first of the queue is counted again and goes if it is
        still first.
        """
        queue = [(self._priority(i), i) for i in range(len(self.problem.units))]
        queue = [entry for entry in queue if np.isfinite(entry[0])]
        heapq.heapify(queue)
        while queue:
            _, index = heapq.heappop(queue)
            now = self._priority(index)
            if queue and now > queue[0][0] and np.isfinite(now):
                heapq.heappush(queue, (now, index))
                continue
            if not np.isfinite(now):
                continue
            yield index, self._next(index)
            if np.isfinite(following := self._priority(index)):
                heapq.heappush(queue, (following, index))

    def _next(self, index: int) -> int:
        """Units gone after the next step of a group; -1 if there is none."""
        steps = self.problem.steps[index]
        following = bisect.bisect_right(steps, self.removed[index])
        return steps[following] if following < len(steps) else -1

    def _priority(self, index: int) -> float:
        """Importance per saved cost of a group's next step; infinite if none saves."""
        now, then = int(self.removed[index]), self._next(index)
        if then < 0:
            return np.inf
        if self.settings.allocation == "uniform":
            return then / self.problem.units[index].size
        saved = self._saving(index, then)
        lost = self.losses[index][then] - self.losses[index][now]
        return float(lost / saved) if saved > 0 else np.inf

    def _saving(self, index: int, then: int) -> float:
        part = self.parts[index]
        after = self.removed.copy()
        after[index] = then
        return float(part.value(self.removed) - part.value(after))


def _mask(group: Group, alive: Mapping[str, Any]) -> np.ndarray:
    if group.name not in alive:
        return np.ones(unit_shape(group), bool)
    mask = np.asarray(alive[group.name], bool)
    if mask.shape != unit_shape(group):
        raise ValueError(
            f'{USER}: alive["{group.name}"] has shape {mask.shape}, but the group '
            f"{unit_shape(group)}. Give the masks of these groups."
        )
    return mask


def _checked(group: Group, scores: Mapping[str, Any]) -> np.ndarray:
    if group.name not in scores:
        raise ValueError(
            f'{USER}: there is no score for "{group.name}". Take scores of all groups '
            "that may lose units, from unit_scores, or exclude it."
        )
    score = np.asarray(scores[group.name], np.float64)
    if score.shape != unit_shape(group):
        raise ValueError(
            f'{USER}: scores["{group.name}"] have shape {score.shape}, but the group '
            f"{unit_shape(group)}: one number per unit."
        )
    if not np.isfinite(score).all() or (score < 0).any():
        bad = int((~np.isfinite(score) | (score < 0)).sum())
        raise ValueError(
            f'{USER}: {bad} scores of "{group.name}" are NaN, infinite or negative. '
            "Look for NaN in the parameters or the gradients, with a lower learning "
            "rate, or in the data."
        )
    return score


def _out_of_units(problem: Problem, left: float) -> str:
    return (
        f"{USER}: a budget of {problem.kind}={problem.target:g} cannot be met: "
        f"{rounded_up(left)} are left when no group can lose more. Ask for "
        f"{rounded_up(left)} or more."
    )


def _choice(
    settings: Settings, problem: Problem, ranking: _Ranking, removed: np.ndarray
) -> Choice:
    keep = keep_of(
        {
            group.name: (group, ranking.order[group.name], int(gone))
            for group, gone in zip(problem.scored, removed, strict=True)
            if gone
        }
    )
    sizes = sizes_of(keep)
    groups = settings.groups
    left = {
        "parameters": groups.parameters(sizes) / groups.parameters(),
        "macs": groups.macs(sizes) / groups.macs(),
        problem.kind: float(problem.cost.value(removed)) / problem.cost.whole,
    }
    return Choice(keep, sizes, {problem.kind: problem.target}, left)
