"""Which rows no other row beats."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from compress.report.metric import MetricRecord
from compress.report.rows import RowSummary

_SAME_TIME = 1.05  # latencies closer than this are equal


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Indices of the points with no other point at most as costly and more valuable.

    In order of cost. Of points that are equal in both, the first is kept.
    """
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -values[i], i))
    front: list[int] = []
    for i in order:
        if not front or values[i] > values[front[-1]]:
            front.append(i)
    return front


class _Costs(NamedTuple):
    """What a row costs; less is better in all.

    Attributes:
      loss: The score, turned so that less is better.
      size: In bytes, as it would be shipped.
      times: Per batch size that was timed, relative to one row.
    """

    loss: float
    size: float
    times: tuple[float, ...]


def unbeaten(
    rows: Sequence[RowSummary], metric: MetricRecord, batches: Iterable[int]
) -> frozenset[str]:
    """Rows that no other beats in score, bytes and latency all at once.

    Args:
      rows: Those without a score take no part.
      metric: What they are judged by.
      batches: Batch sizes that were timed.
    """
    batches = tuple(batches)
    known = [row for row in rows if row.score]
    points = {row.name: _costs(row, metric, batches) for row in known}
    return frozenset(
        name
        for name, costs in points.items()
        if not any(_beats(other, costs) for other in points.values())
    )


def packed_bytes(row: RowSummary) -> float:
    """The weights file, or with zeros behind a bitmask where that is smaller."""
    return min(row.sizes["file"], row.sizes["bitmask"])


def _costs(row: RowSummary, metric: MetricRecord, batches: Sequence[int]) -> _Costs:
    """A latency that was not measured counts as the worst."""
    assert row.score is not None
    times = tuple(
        row.latency[batch].paired_ratio if batch in row.latency else float("inf")
        for batch in batches
    )
    return _Costs(-metric.merit(row.score.mean), packed_bytes(row), times)


def _beats(one: _Costs, other: _Costs) -> bool:
    """At least as good in all, and better in one by more than clocks are wrong."""
    times = list(zip(one.times, other.times, strict=True))
    if one.loss > other.loss or one.size > other.size:
        return False
    if any(a > _SAME_TIME * b for a, b in times):
        return False
    faster = any(_SAME_TIME * a < b for a, b in times)
    return one.loss < other.loss or one.size < other.size or faster
