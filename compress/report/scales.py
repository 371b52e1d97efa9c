"""Colors, domains and ticks that the plots share."""

import itertools
import math
from collections.abc import Sequence

Domain = tuple[float, float]  # both ends of an axis, in data units

COLORS = (
    *("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2"),
    *("#b279a2", "#9d755d", "#d6a400", "#ff9da6", "#79706e"),
)
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
_TICK_STEPS = (  # of a decade, from many to few
    (1, 1.2, 1.5, 1.8, 2, 2.5, 3, 4, 5, 6, 7, 8, 9),
    (1, 1.5, 2, 3, 4, 5, 6, 8),
    (1, 1.5, 2, 3, 5, 7),
    (1, 2, 3, 5),
    (1, 2, 5),
    (1, 3),
    (1,),
)
_TICK_ROOM = 44  # px between ticks: "150 kB" at 11 px and a space


def row_color(rows: Sequence[str], row: str) -> str:
    """A row has the same color in every plot; from the eleventh on they repeat."""
    return COLORS[rows.index(row) % len(COLORS)]


def row_dash(rows: Sequence[str], row: str) -> list[int]:
    """What tells rows of one color apart."""
    return DASHES[rows.index(row) // len(COLORS) % len(DASHES)]


def log_domain(costs: Sequence[float]) -> Domain:
    """`padded` on a log scale."""
    low, high = padded(math.log(min(costs)), math.log(max(costs)), least=0.2)
    return math.exp(low), math.exp(high)


def padded(low: float, high: float, least: float = 0.1) -> Domain:
    """The range with 15 % of room on both sides, `least` if it is too small."""
    room = max(0.15 * (high - low), least)
    return low - room, high + room


def log_ticks(low: float, high: float, width: int) -> list[float]:
    """Round numbers for a log axis, as many as have room for their labels."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    pixels = width / math.log(high / low)
    ticks: list[float] = []
    for steps in _TICK_STEPS:
        numbers = (step * 10.0**exponent for exponent in exponents for step in steps)
        ticks = [float(f"{x:.6g}") for x in sorted(numbers) if low <= x <= high]
        gaps = (math.log(b / a) * pixels for a, b in itertools.pairwise(ticks))
        if ticks and min(gaps, default=width) >= _TICK_ROOM:
            break
    return ticks
