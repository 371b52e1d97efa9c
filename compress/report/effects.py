"""Main effects and interactions of the techniques, over rows with and without each.

Rows that are declared by an order of techniques form a full factorial design: every
technique is there or not. Rows with the same techniques in other orders are averaged.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from compress.annotations import Float
from compress.report.records import Comparison
from compress.report.stats import Interval, summarize, two_sided_p


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a technique, or several together, change in the metric.

    Attributes:
      name: `P`, `P x Q`.
      factors: The letters of its techniques. One is a main effect: the mean difference
        with and without it, over all combinations of the others. Two are an
        interaction: the effect of one where the other is, minus where it is not. Three
        are the difference of two such interactions.
      mean: Over seeds, as a difference of raw values: 0.01 of an accuracy is a point.
      interval: 95 % t interval of the mean over seeds; None with one seed.
      p: Of no effect, two-sided and not corrected; None with one seed.
      num_seeds: How many seeds finished in every row of the design.
    """

    name: str
    factors: tuple[str, ...]
    mean: float
    interval: Interval | None
    p: float | None
    num_seeds: int


def effects(comparison: Comparison) -> list[Effect]:
    """Every effect, main effects first; empty if a combination has no row or seed."""
    factors = comparison.factors
    if not factors or missing_combinations(comparison):
        return []
    values = _values(comparison)
    if not values.shape[1]:
        return []
    return [_effect(some, factors, values) for some in _combinations(factors) if some]


def missing_combinations(comparison: Comparison) -> list[tuple[str, ...]]:
    """The combinations of techniques that no row has; none if no row has an order."""
    if not comparison.factors:
        return []
    there = {frozenset(letters) for letters in comparison.design.values()}
    return [s for s in _combinations(comparison.factors) if frozenset(s) not in there]


def factorial_effect(
    values: Float[np.ndarray, "combinations seeds"],
    there: Sequence[Sequence[bool]],
    of: Sequence[int],
) -> Float[np.ndarray, "seeds"]:
    """An effect at each seed, from a full factorial design of two levels.

    It is the coefficient of a product of factors, coded -1/2 and 1/2, in the linear
    model of all products.

    Source: Yates 1937; Box, Hunter and Hunter 2005, chapter 5, who define interactions
    of n factors smaller by 2**(n - 1). Here they are differences of differences.

    Args:
      values: A row per combination.
      there: Which factors each combination has.
      of: Which factors' effect: their positions.
    """
    signs = [math.prod(1 if has[i] else -1 for i in of) for has in there]
    return 2.0 ** len(of) * np.asarray(signs, float) @ values / len(signs)


def _effect(
    subset: tuple[str, ...], factors: Sequence[str], values: np.ndarray
) -> Effect:
    there = [[f in letters for f in factors] for letters in _combinations(factors)]
    of = [factors.index(letter) for letter in subset]
    per_seed = factorial_effect(values, there, of).tolist()
    mean, _, interval, num_seeds = summarize(per_seed)
    p = two_sided_p(per_seed)
    return Effect(" x ".join(subset), subset, mean, interval, p, num_seeds)


def _values(comparison: Comparison) -> np.ndarray:
    """A row per combination, the mean of its rows; a column per seed in all rows."""
    scores = {
        row: {cell.seed: cell.score for cell in comparison.cells_of(row)}
        for row in comparison.design
    }
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in scores.values())))
    table = [
        [
            [by_seed[seed] for seed in seeds]
            for row, by_seed in scores.items()
            if set(comparison.design[row]) == set(letters)
        ]
        for letters in _combinations(comparison.factors)
    ]
    return np.array([np.mean(rows, axis=0) for rows in table])


def _combinations(factors: Sequence[str]) -> list[tuple[str, ...]]:
    return [
        letters
        for size in range(len(factors) + 1)
        for letters in itertools.combinations(factors, size)
    ]
