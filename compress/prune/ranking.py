"""Which units are kept: the best of a row or of all, with exact counts."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compress.annotations import Array, Bool, Float, Int
from compress.prune.patterns import Pattern
from compress.prune.scopes import (
    TOGETHER,
    Counts,
    Part,
    Parts,
    Request,
    Scope,
    root_mean_square,
)
from compress.prune.select import keep_largest, keep_largest_per_row
from compress.prune.when import When
from compress.transform import Ends, Ramp

# By path of a parameter, `[rows, units]`.
Units = Mapping[str, Array]


class Ranking(NamedTuple):
    """What decides which units of some parameters are kept.

    Attributes:
      pattern: What a unit is.
      scope: What is ranked together.
      when: The sparsity over time.
      min_kept: Units that each row keeps.
      user: Who asks, for messages.
      parts: The parameters.
    """

    pattern: Pattern
    scope: Scope
    when: When
    min_kept: int
    user: str
    parts: Parts

    def boundaries(self) -> list[tuple[Counts, Counts]]:
        """How many units are pruned at both ends of each ramp.

        Raises:
          ValueError: If that would leave fewer than `min_kept`.
        """
        # N of M is at least one in every group of a layer.
        min_kept = 0 if self.pattern.kept else self.min_kept
        found: list[tuple[Counts, Counts]] = []
        least: Counts | None = None
        for each in self.when.ramps:
            ends = []
            for sparsity in (each.initial, each.final):
                before = least if self.when.monotone else None
                asked = Request(sparsity, self.when.final, before, min_kept, self.user)
                ends.append(least := self.scope.allocate(self.parts, asked))
            found.append((ends[0], ends[1]))
        return found

    def counts(self, step: Array) -> dict[str, Int[Array, "rows"]]:
        """How many units are pruned in each row at a step."""
        sizes = _sizes(self)
        counts: dict[str, Array] = {}
        for each, ends in zip(self.when.ramps, _ends(self)):
            for path, own in ends.items():
                now = each.between(own, step, sizes[path])
                started = (step > each.begin) | (step >= each.end)
                counts[path] = (
                    jnp.where(started, now, counts[path]) if path in counts else now
                )
        return counts

    def units(self, scores: Mapping[str, Array]) -> dict[str, Array]:
        """The score of each unit."""
        return {
            part.weight.path: self.pattern.units(scores[part.weight.path], part.weight)
            for part in self.parts
        }

    def kept(self, masks: Mapping[str, Array]) -> dict[str, Array]:
        """Which units have any connection left."""
        ones = {path: mask.astype(jnp.float32) for path, mask in masks.items()}
        return {path: share > 0 for path, share in self.units(ones).items()}

    def masks(self, kept: Units) -> dict[str, Array]:
        """The mask of each parameter, from what is kept of its units."""
        return {
            part.weight.path: self.pattern.spread(kept[part.weight.path], part.weight)
            for part in self.parts
        }

    def keep(
        self, units: Units, step: Array, allowed: Units | None = None
    ) -> dict[str, Array]:
        """What is kept of the units at a step, with exact counts under any ties.

        Args:
          units: Their scores.
          step: Updates done.
          allowed: Which may be kept; None for all.
        """
        counts = self.counts(step)
        if self.scope.normalize:
            units = {p: score / root_mean_square(score) for p, score in units.items()}
        if allowed is not None:
            lowest = -jnp.inf
            units = {p: jnp.where(allowed[p], x, lowest) for p, x in units.items()}
        if self.scope.together:
            protected = {p: _protect(u, self.min_kept) for p, u in units.items()}
            return keep_largest(protected, counts[TOGETHER][0])
        if self.pattern.kept:
            return {p: _keep_in_groups(u, counts[p]) for p, u in units.items()}
        return {
            p: keep_largest_per_row(u, _of_rows(u, counts[p])) for p, u in units.items()
        }


def exchange(
    kept: Bool[Array, "rows units"],
    scores: Float[Array, "rows units"],
    growth: Float[Array, "rows units"],
    fraction: Float[Array, ""],
) -> Bool[Array, "rows units"]:
    """Drops the smallest of what is kept, and grows as many elsewhere.

    What was just dropped may grow again.

    Source: Evci et al. 2020, algorithm 1.

    Args:
      kept: Before.
      scores: What is dropped if small.
      growth: What is grown if large.
      fraction: Of what is kept in each row.
    """
    size = kept.shape[1]
    num_kept = jnp.sum(kept, axis=1, dtype=jnp.int32)
    moved = jnp.floor(fraction * num_kept.astype(jnp.float32)).astype(jnp.int32)
    staying = keep_largest_per_row(
        jnp.where(kept, scores, -jnp.inf), size - num_kept + moved
    )
    grown = keep_largest_per_row(jnp.where(staying, -jnp.inf, growth), size - moved)
    return staying | grown


def _of_rows(units: Array, counts: Int[Array, "counts"]) -> Int[Array, "rows"]:
    return jnp.broadcast_to(counts, units.shape[:1])


def _sizes(ranking: Ranking) -> dict[str, int]:
    sizes = {part.weight.path: part.size for part in ranking.parts}
    sizes[TOGETHER] = sum(part.rows * part.size for part in ranking.parts)
    return sizes


def _ends(ranking: Ranking) -> list[dict[str, Ends]]:
    """By ramp and path, what the counts of the rows go between."""
    if ranking.when.one_of is None:
        return _own_ends(ranking)
    several, index = ranking.when.one_of
    tables = [_own_ends(ranking._replace(when=when)) for when in several]
    pick = lambda *ends: jnp.asarray(np.stack(ends))[index]  # noqa: E731
    return jax.tree.map(pick, *tables)


def _own_ends(ranking: Ranking) -> list[dict[str, Ends]]:
    sizes = _sizes(ranking)
    return [
        {path: _of_each(each, first[path], last[path], sizes[path]) for path in first}
        for each, (first, last) in zip(ranking.when.ramps, ranking.boundaries())
    ]


def _of_each(each: Ramp, first: np.ndarray, last: np.ndarray, size: int) -> Ends:
    """The ends of each row, exact whatever it was asked for."""
    rows = zip(first.tolist(), last.tolist())
    ends = [_row_ramp(each, a, b, size).ends(size) for a, b in rows]
    return Ends(*(np.stack(values) for values in zip(*ends)))


def _row_ramp(each: Ramp, first: int, last: int, size: int) -> Ramp:
    """The ramp itself where it has these ends, or else one scaled to them."""
    if (first, last) == (round(each.initial * size), round(each.final * size)):
        return each
    return each._replace(initial=first / size, final=last / size)


def _protect(units: Array, min_kept: int) -> Float[Array, "rows units"]:
    """The best of each row get a score that is never pruned."""
    if min_kept == 0:
        return units
    _, best = jax.lax.top_k(units, min_kept)
    return units.at[jnp.arange(units.shape[0])[:, None], best].set(jnp.inf)


def _keep_in_groups(
    units: Float[Array, "groups size"], num_pruned: Int[Array, "1"]
) -> Bool[Array, "groups size"]:
    """The best of each of many small groups, as `keep_largest_per_row`."""
    # Each against each: a fifteenth of the time of sorting a million such weights.
    units = jnp.where(jnp.isnan(units), jnp.inf, units)
    position = jnp.arange(units.shape[1])
    earlier = position[:, None] < position[None, :]
    one, other = units[:, :, None], units[:, None, :]
    ahead = (one < other) | ((one == other) & earlier[None])
    return jnp.sum(ahead, axis=1, dtype=jnp.int32) >= num_pruned[:, None]


def parts_of(pattern: Pattern, weights: Sequence, user: str) -> list[Part]:
    """The parameters in units of a pattern.

    Raises:
      ValueError: If it does not fit one of them.
    """
    parts = []
    for weight in weights:
        pattern.check(weight, user)
        parts.append(Part(weight, *pattern.shape(weight)))
    return parts
