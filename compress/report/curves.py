"""Training curves: one line per row, the mean over its seeds."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from compress.report.records import Comparison

MAX_POINTS = 120
"""Points per line: more cannot be told apart on a screen."""


def mean_curves(comparison: Comparison, key: str) -> list[dict[str, Any]]:
    """Points of all rows: `row`, `step`, `value`, `stage`, `num_seeds`.

    Steps are put into at most `MAX_POINTS` equal bins; a point is the mean over the
    seeds and steps in its bin. Values that are not finite are left out.
    """
    points = []
    for row in comparison.rows:
        cells = comparison.cells_of(row)
        samples = [
            (record["step"], float(record[key]), record.get("stage", ""), cell.seed)
            for cell in cells
            for record in cell.metrics
            if isinstance(record.get(key), int | float) and math.isfinite(record[key])
        ]
        points += [{"row": row, **point} for point in _binned(samples)]
    return points


def _binned(samples: Sequence[tuple[int, float, str, int]]) -> Iterable[dict[str, Any]]:
    if not samples:
        return
    first = min(step for step, *_ in samples)
    last = max(step for step, *_ in samples)
    width = max(1, (last - first + 1) / MAX_POINTS)
    bins: dict[int, list[tuple[int, float, str, int]]] = {}
    for sample in samples:
        bins.setdefault(int((sample[0] - first) / width), []).append(sample)
    for index in sorted(bins):
        steps, values, stages, seeds = zip(*bins[index], strict=True)
        yield {
            "step": round(sum(steps) / len(steps)),
            "value": sum(values) / len(values),
            "stage": str(stages[-1]),
            "num_seeds": len(set(seeds)),
        }
