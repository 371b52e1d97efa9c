"""What the runs say of the contrasts: which claims hold, which are refuted.

A verdict needs all of: the t interval over seeds, the interval over seeds and test
items where the items are known, and a p-value that is corrected for the number of
contrasts. Anything less is within noise.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from compress.config import Contrast, margin_problem, parse_contrast
from compress.report.metric import MetricRecord
from compress.report.records import Comparison
from compress.report.rows import compare_rows
from compress.report.stats import Difference, Interval, holm, one_sided_p, two_sided_p

Verdict = Literal["holds", "refuted", "within noise", "not known"]

LEVEL = 0.05
"""The chance of any claim wrongly said to hold, and of any wrongly refuted."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """What the runs say of one contrast.

    Attributes:
      contrast: What was claimed.
      difference: The row minus the other, of raw scores; None if no seed finished in
        both.
      confidence: Of its intervals: 0.95, or 0.9 of a claim with a margin, which is
        tested on one side at a time.
      p: The p-value behind the verdict; None with one seed.
      adjusted_p: The same after Holm's correction.
      verdict: Whether the claim holds. `A - B` claims that they differ.
    """

    contrast: Contrast
    difference: Difference | None
    confidence: float
    p: float | None
    adjusted_p: float | None
    verdict: Verdict


def findings(
    comparison: Comparison, contrasts: Sequence[Any] | None = None
) -> list[Finding]:
    """One finding per contrast.

    Args:
      comparison: From `load_compare`.
      contrasts: In any spelling a config takes; None takes those of `compare.json`.

    Raises:
      ValueError: If one names something that is not a row, or lacks its margin.
    """
    asked = comparison.contrasts if contrasts is None else contrasts
    tests = [_test(comparison, parse_contrast(contrast)) for contrast in asked]
    holds = _adjusted([test.p_holds for test in tests])
    refuted = _adjusted([test.p_refuted for test in tests])
    return [_finding(*both) for both in zip(tests, holds, refuted, strict=True)]


class _Test(NamedTuple):
    """A contrast with what decides about it.

    Attributes:
      contrast: What was claimed.
      difference: The row minus the other.
      says: What each interval alone says of the claim.
      p_holds: Of the contrary of the claim; None with one seed.
      p_refuted: Of the claim; None likewise.
    """

    contrast: Contrast
    difference: Difference | None
    says: frozenset[Verdict]
    p_holds: float | None
    p_refuted: float | None


def _test(comparison: Comparison, contrast: Contrast) -> _Test:
    problem = margin_problem(contrast)
    if problem:
        raise ValueError(f"contrast: {problem}.")
    confidence = _confidence(contrast)
    difference = compare_rows(comparison, contrast.row, contrast.other, confidence)
    if difference is None or difference.interval is None:
        return _Test(contrast, difference, frozenset(), None, None)
    metric, relation = comparison.metric, contrast.relation
    margin = (contrast.margin or 0.0) / metric.scale
    intervals = filter(None, (difference.interval, difference.bootstrap))
    says = frozenset(_says(relation, _gain(i, metric), margin) for i in intervals)
    gains = [metric.merit(value) for value in difference.values]
    return _Test(contrast, difference, says, *_p_values(relation, gains, margin))


def _confidence(contrast: Contrast) -> float:
    """What an interval needs to agree with a test at the level."""
    return 1 - (LEVEL if contrast.margin is None else 2 * LEVEL)


def _gain(interval: Interval, metric: MetricRecord) -> Interval:
    """The interval turned so that positive is better."""
    low, high = sorted(map(metric.merit, interval))
    return low, high


def _p_values(
    relation: str, gains: Sequence[float], margin: float
) -> tuple[float | None, float | None]:
    """For a claim to hold, and to be refuted; with a margin, two one-sided tests.

    Source: Schuirmann 1987, https://doi.org/10.1007/BF01068419
    """
    if relation == "-":
        return two_sided_p(gains), 1.0
    if relation == ">":
        return two_sided_p(gains), two_sided_p(gains)
    losses = [-gain for gain in gains]
    above = [one_sided_p(x, -margin) or 0.0 for x in (gains, losses)]
    below = [one_sided_p(x, margin) or 0.0 for x in (losses, gains)]
    if relation == ">=":
        return above[0], below[0]
    return max(above), min(below)


def _says(relation: str, gain: Interval, margin: float) -> Verdict:
    """What an interval alone says of a claim."""
    low, high = gain
    least = -margin if relation in (">=", "=") else 0.0
    if relation == "-":
        return "holds" if low > 0 or high < 0 else "within noise"
    if low > least and (relation != "=" or high < margin):
        return "holds"
    if high < least or (relation == "=" and low > margin):
        return "refuted"
    return "within noise"


def _adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    """After Holm's correction for the number of those that are known."""
    adjusted = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(adjusted) for p in p_values]


def _finding(test: _Test, holds: float | None, refuted: float | None) -> Finding:
    verdict: Verdict = "within noise"
    p, adjusted = test.p_holds, holds
    if holds is None or refuted is None:
        verdict = "not known"
    elif test.says == {"holds"} and holds <= LEVEL:
        verdict = "holds"
    elif test.says == {"refuted"} and refuted <= LEVEL:
        verdict, p, adjusted = "refuted", test.p_refuted, refuted
    confidence = _confidence(test.contrast)
    return Finding(test.contrast, test.difference, confidence, p, adjusted, verdict)
