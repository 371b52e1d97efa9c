"""Is a difference between two rows larger than the spread over seeds?

Rows share their seeds, so differences are paired: the seed's own luck cancels.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from compress.annotations import Shaped

Interval = tuple[float, float]
_BLOCK = 2**22  # draws held at a time: 32 MB


class Summary(NamedTuple):
    """Values of one row over its seeds.

    Attributes:
      mean: Mean over seeds.
      sd: Sample standard deviation (n - 1); None with one seed.
      interval: t interval of the mean, of 95 % if nothing else is said; None with one
        seed.
      num_seeds: How many seeds.
    """

    mean: float
    sd: float | None
    interval: Interval | None
    num_seeds: int


class Difference(NamedTuple):
    """A row minus another, over the seeds that both finished.

    Attributes:
      mean: Mean of the differences.
      interval: t interval of the mean, of 95 % if nothing else is said; None with one
        seed.
      bootstrap: The same over seeds and test items; None with one seed or when the
        items are not known.
      num_seeds: How many seeds both rows finished.
      values: The difference at each of these seeds.
    """

    mean: float
    interval: Interval | None
    bootstrap: Interval | None
    num_seeds: int
    values: tuple[float, ...] = ()

    @property
    def within_noise(self) -> bool | None:
        """Whether an interval contains 0: seeds or items could make the difference.

        None when there is no interval.
        """
        if self.interval is None:
            return None
        intervals = [self.interval, *([self.bootstrap] if self.bootstrap else [])]
        return any(low <= 0 <= high for low, high in intervals)


def summarize(values: Sequence[float], confidence: float = 0.95) -> Summary:
    """Mean, standard deviation and t interval of at least one value."""
    if not values:
        raise ValueError("summarize: no values. Leave a row without results out.")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Summary(mean, None, None, 1)
    sd = float(np.std(values, ddof=1))
    half_width = t_quantile(confidence, len(values) - 1) * sd / math.sqrt(len(values))
    return Summary(mean, sd, (mean - half_width, mean + half_width), len(values))


def paired_difference(
    values: Mapping[int, float],
    reference: Mapping[int, float],
    *,
    items: Mapping[int, np.ndarray] | None = None,
    reference_items: Mapping[int, np.ndarray] | None = None,
    confidence: float = 0.95,
) -> Difference | None:
    """`values - reference` over the seeds in both; None if they share no seed.

    Args:
      values: Seed to value.
      reference: Seed to value of the row to compare with.
      items: Seed to one bool or number per test item; with `reference_items`, gives
        the bootstrap interval.
      reference_items: The same for the reference.
      confidence: Of the intervals.
    """
    seeds = sorted(values.keys() & reference.keys())
    if not seeds:
        return None
    differences = [values[s] - reference[s] for s in seeds]
    mean, _, interval, num_seeds = summarize(differences, confidence)
    bootstrap = None
    if items is not None and reference_items is not None and num_seeds > 1:
        bootstrap = bootstrap_difference(
            np.stack([items[s] for s in seeds]),
            np.stack([reference_items[s] for s in seeds]),
            confidence=confidence,
        )
    return Difference(mean, interval, bootstrap, num_seeds, tuple(differences))


def bootstrap_difference(
    values: Shaped[np.ndarray, "seeds items"],
    reference: Shaped[np.ndarray, "seeds items"],
    *,
    confidence: float = 0.95,
    num_samples: int = 4000,
    rng_seed: int = 0,
) -> Interval | None:
    """Percentile interval of the difference of scores; None with one seed.

    Seeds and test items are both drawn with replacement. Items with the same pattern
    of differences over the seeds are interchangeable, so the number of times each
    pattern is drawn is multinomial: the same distribution as drawing items one by
    one, without the `[samples, items]` array.

    Source: two-way (pigeonhole) bootstrap, Owen 2007.
    https://arxiv.org/abs/0712.1111
    """
    num_seeds, num_items = values.shape
    if num_seeds < 2:
        return None
    exact = np.int8 if values.dtype == bool else np.float64
    difference = values.astype(exact) - reference.astype(exact)
    patterns, counts = np.unique(difference, axis=1, return_counts=True)
    rng = np.random.default_rng(rng_seed)
    seeds = rng.multinomial(num_seeds, [1 / num_seeds] * num_seeds, num_samples)
    block = max(1, _BLOCK // counts.size)
    means = []
    for start in range(0, num_samples, block):
        drawn = seeds[start : start + block]
        items = rng.multinomial(num_items, counts / num_items, len(drawn))
        means.append(np.einsum("bs,sp,bp->b", drawn, patterns, items, optimize=True))
    scale = num_seeds * num_items
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means) / scale, [tail, 1 - tail])
    return float(low), float(high)


@functools.cache
def t_quantile(confidence: float, degrees_of_freedom: int) -> float:
    """The t for which `P(|T| < t) = confidence` under Student's t distribution."""
    if degrees_of_freedom < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"t_quantile: confidence={confidence}, {degrees_of_freedom=}. "
            "Use a confidence between 0 and 1 and at least two values."
        )
    low, high = 0.0, math.pi / 2
    for _ in range(100):  # each halves the angle's interval: below float64's grid
        middle = (low + high) / 2
        if _t_probability(middle, degrees_of_freedom) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees_of_freedom) * math.tan(low)


def one_sided_p(values: Sequence[float], bound: float = 0.0) -> float | None:
    """The p-value of "the mean is at most `bound`"; None with one value.

    A one-sample t test. Of values without any spread the mean is taken to be known:
    0 above the bound, 1 below it.
    """
    degrees_of_freedom = len(values) - 1
    if degrees_of_freedom < 1:
        return None
    away = float(np.mean(values)) - bound
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    angle = math.atan2(abs(away), error * math.sqrt(degrees_of_freedom))
    outside = max(1.0 - _t_probability(angle, degrees_of_freedom), 0.0)
    return outside / 2 if away >= 0 else 1 - outside / 2


def two_sided_p(values: Sequence[float], center: float = 0.0) -> float | None:
    """The p-value of "the mean is `center`"; None with one value."""
    above = one_sided_p(values, center)
    return None if above is None else min(1.0, 2 * min(above, 1 - above))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number, in the order given.

    Rejecting what is at most alpha here makes the chance of any wrong rejection among
    all of them at most alpha, whatever depends on what.

    Source: Holm 1979, https://www.jstor.org/stable/4615733
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted


def _t_probability(angle: float, degrees_of_freedom: int) -> float:
    """`P(|T| < sqrt(degrees_of_freedom) * tan(angle))`.

    Source: Abramowitz and Stegun 1964, 26.7.3 and 26.7.4: a finite sum for whole
    degrees of freedom.
    """
    odd = degrees_of_freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(1 + odd, degrees_of_freedom, 2):
        total += term
        term *= math.cos(angle) ** 2 * k / (k + 1)
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total
