"""Meets a latency by measuring: bisection over budgets of MACs."""

from collections.abc import Callable
from typing import Any

from compress.prune.structured.keep import Keep
from compress.prune.structured.settings import (
    USER,
    Settings,
    pose,
    rounded_up,
    smallest_fraction,
)

# measure(keep) -> latency of the exported model as a fraction of the whole one's
Measure = Callable[[Keep], float]
_MEASUREMENTS = 8
# Of the MACs: closer is below what a latency can be told apart by.
_CLOSE = 0.02


def meet_latency(
    target: float,
    at: Callable[[float], Any],
    measure: Measure | None,
    settings: Settings,
) -> Any:
    """The largest model that is measured to be fast enough.

    Latency is a staircase of the widths and not known beforehand, so it is measured: at
    most eight times, and once for each set of widths.

    Args:
      target: Fraction of the whole model's latency.
      at: `(fraction of MACs) -> Choice`.
      measure: `(keep) -> ratio`.
      settings: Of the choice, for its bounds.

    Raises:
      ValueError: If there is no `measure`, or the smallest model is not fast enough.
    """
    if measure is None:
        raise ValueError(
            f"{USER}: a budget of latency needs measure=, a function (keep) -> latency "
            "as a fraction of the whole model's; compress.compare.latency_of makes one."
        )
    if not 0.0 < target <= 1.0:
        raise ValueError(
            f"{USER}: budget latency={target} must be above 0 and at most 1; it is the "
            "fraction that is left."
        )
    timer = _Timer(at, measure)
    low, high = _smallest(settings), 1.0
    fraction = max(low, min(target, 1.0))
    best = None
    while len(timer.seen) < _MEASUREMENTS:
        choice, ratio = timer(fraction)
        if ratio <= target:
            best, low = choice, fraction
        elif best is None and fraction <= low:
            raise ValueError(_too_slow(target, ratio))
        else:
            high = fraction
        if best is not None and high - low <= _CLOSE:
            break
        # Before anything was fast enough the smallest is tried: it may not be either.
        fraction = low if best is None else (low + high) / 2
    assert best is not None
    return best._replace(measured=tuple(timer.seen.items()))


class _Timer:
    """Measures each set of widths once."""

    def __init__(self, at: Callable[[float], Any], measure: Measure) -> None:
        self.at, self.measure = at, measure
        self.by_sizes: dict[Any, float] = {}
        self.seen: dict[float, float] = {}

    def __call__(self, fraction: float) -> tuple[Any, float]:
        choice = self.at(fraction)
        sizes = tuple(sorted(choice.sizes.items()))
        if sizes not in self.by_sizes:
            self.by_sizes[sizes] = float(self.measure(choice.keep))
        self.seen[fraction] = self.by_sizes[sizes]
        return choice, self.by_sizes[sizes]


def _smallest(settings: Settings) -> float:
    problem = pose(settings._replace(budget={"macs": 1.0}))
    # A little more, so that rounding does not make it unreachable.
    return min(smallest_fraction(problem) * (1 + 1e-6), 1.0)


def _too_slow(target: float, ratio: float) -> str:
    return (
        f"{USER}: a budget of latency={target:g} cannot be met: with every group at "
        f"its smallest the exported model takes {rounded_up(ratio)} of the time. Ask "
        "for more, lower round_to or min_units, or let more groups lose units."
    )
