"""Numbers as text. Missing numbers are an em dash; kB is 1000 bytes."""

from compress.report.metric import MetricRecord
from compress.report.records import LatencyRecord
from compress.report.stats import Difference, Interval, Summary

MISSING = "—"
_SIZE_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_COUNT_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def format_bytes(value: float | None) -> str:
    """`24.8 kB`."""
    return MISSING if value is None else _scaled(value, _SIZE_UNITS, " ")


def format_count(value: float | None) -> str:
    """`12.5M`."""
    return MISSING if value is None else _scaled(value, _COUNT_UNITS, "")


def format_ratio(value: float | None) -> str:
    """`12.5x`."""
    return MISSING if value is None else f"{_significant(value)}x"


def format_percent(value: float | None, decimals: int = 1) -> str:
    """`80.0 %` of a fraction."""
    return MISSING if value is None else f"{100 * value:.{decimals}f} %"


def format_microseconds(value: float | None) -> str:
    """`147 µs`, or `1.25 ms` from 10 000 µs on."""
    if value is None:
        return MISSING
    if value >= 1e4:
        return f"{_significant(value / 1e3)} ms"
    return f"{_significant(value)} µs"


def format_latency(value: LatencyRecord | None) -> str:
    """`0.63x (147 µs)`: relative to the reference, and the median."""
    if value is None:
        return MISSING
    return (
        f"{format_ratio(value.paired_ratio)} ({format_microseconds(value.median_us)})"
    )


def format_score(value: Summary | None, metric: MetricRecord) -> str:
    """`83.12 ± 0.25`, with the standard deviation over seeds."""
    if value is None:
        return MISSING
    spread = "" if value.sd is None else f" ± {metric.shown(value.sd)}"
    return f"{metric.shown(value.mean)}{spread}"


def format_extra(value: Summary | None) -> str:
    """`4.631 ± 0.012`: a number of which nothing else is known."""
    if value is None:
        return MISSING
    spread = "" if value.sd is None else f" ± {value.sd:.2g}"
    return f"{value.mean:.4g}{spread}"


def format_difference(value: Difference | None, metric: MetricRecord) -> str:
    """`-0.30 [-0.72, 0.12]`, for an accuracy in percentage points."""
    if value is None:
        return MISSING
    interval = f" {format_interval(value.interval, metric)}" if value.interval else ""
    return f"{metric.shown(value.mean, '+')}{interval}"


def format_interval(interval: Interval, metric: MetricRecord) -> str:
    """`[-0.72, 0.12]`, for an accuracy in percentage points."""
    low, high = map(metric.shown, interval)
    return f"[{low}, {high}]"


def noise_mark(value: Difference | None) -> str:
    """`within noise`, `one seed` or nothing."""
    if value is None or value.within_noise is False:
        return ""
    return "one seed" if value.within_noise is None else "within noise"


def _scaled(value: float, units: tuple[tuple[float, str], ...], space: str) -> str:
    for size, unit in units:
        if abs(value) >= size or size == 1.0:
            return f"{_significant(value / size)}{space}{unit}".strip()
    raise AssertionError("the last unit takes every value")


def _significant(value: float) -> str:
    """Three digits, without an exponent."""
    decimals = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{decimals}f}"
