"""The plots, as Vega-Lite specifications."""

from collections.abc import Mapping, Sequence

from compress.report import units
from compress.report.analyses import effects_figure, sensitivity_figure
from compress.report.curves import mean_curves
from compress.report.figure import NARROW, WIDE, Figure, Plot
from compress.report.guides import size_joins, size_levels
from compress.report.heat import HeatData, heat_spec, sparsity_cells, unit_cells
from compress.report.lines import lines_spec
from compress.report.metric import MetricRecord
from compress.report.pareto import unbeaten
from compress.report.records import Comparison
from compress.report.rows import RowSummary
from compress.report.scatter import ScatterData, scatter_spec
from compress.report.sizes import COLUMNS

_SIZE_TICKS = (
    "datum.value >= 1e6 ? format(datum.value / 1e6, '~g') + ' MB' : "
    "datum.value >= 1e3 ? format(datum.value / 1e3, '~g') + ' kB' : "
    "datum.value + ' B'"
)
_TIME_TICKS = "format(datum.value, '~r') + 'x'"


def all_figures(comparison: Comparison, rows: Sequence[RowSummary]) -> list[Figure]:
    """Every figure of the report, in order; those without data have no plots."""
    return [
        size_figure(comparison, rows),
        _latency_figure(comparison, rows),
        effects_figure(comparison),
        sensitivity_figure(comparison),
        *(_curve_figure(comparison, *curve) for curve in _curves(comparison.metric)),
        _sites_figure(comparison),
        _units_figure(comparison),
    ]


def _curves(metric: MetricRecord) -> Sequence[tuple[str, str, str, float]]:
    """Key in metrics.jsonl, title, title of the axis, factor."""
    return (
        ("loss", "Training loss", "loss", 1),
        ("eval_score", f"Evaluation {metric.name}", metric.axis, metric.scale),
        ("sparsity", "Sparsity during training", "zeros (%)", 100),
    )


def _sites_figure(comparison: Comparison) -> Figure:
    data = {
        row: HeatData(sparsity_cells(comparison, row), "step", "zeros (%)")
        for row in comparison.rows
    }
    return Figure(
        "sparsity-sites",
        "Sparsity per site during training",
        "Mean over seeds. Which weights are zero changes no latency here.",
        _heat_plots("sparsity_sites", "Sparsity per site", data),
    )


def _units_figure(comparison: Comparison) -> Figure:
    data = {
        row: HeatData(unit_cells(comparison, row), "unit", "seeds that keep it (%)")
        for row in comparison.rows
    }
    return Figure(
        "units",
        "Units that survived",
        "One line per group of units that go together, and per layer where layers "
        "differ. Removed units are gone from file, arithmetic and latency.",
        _heat_plots("units", "Units that survived", data),
    )


def _heat_plots(
    name: str, title: str, data: Mapping[str, HeatData]
) -> tuple[Plot, ...]:
    """A view for each row that has something to show."""
    return tuple(
        Plot(
            f"{name}_{index}",
            f"{title}: {row}",
            row,
            wide=heat_spec(each, WIDE[0], is_wide=True),
            narrow=heat_spec(each, NARROW[0], is_wide=False),
        )
        for index, (row, each) in enumerate(data.items())
        if each.cells
    )


def size_figure(comparison: Comparison, rows: Sequence[RowSummary]) -> Figure:
    """Score against size, a view per accounting."""
    shown = [row for row in rows if row.score]
    metric = comparison.metric
    best = unbeaten(rows, metric, comparison.latency)
    plots = []
    for column in [column for column in COLUMNS if column != "float"] if shown else ():
        costs = [row.sizes[column] for row in shown]
        data = ScatterData(
            shown,
            comparison.rows,
            costs,
            [units.format_bytes(cost) for cost in costs],
            f"size, {column} (log scale)",
            _SIZE_TICKS,
            metric,
            best,
            levels=size_levels(shown),
        )
        title = f"{metric.title} against size ({column})"
        plots.append(_scatter(f"score_size_{column}", title, column, data))
    return Figure(
        "score-size",
        f"{metric.title} against size",
        f"{_better(metric)} The dashed line joins the rows that no other row beats in "
        "both; full points are those that no other beats in score, bytes and latency. "
        "Bars are one standard deviation over seeds, dotted lines equal sizes: times "
        "smaller than float32.",
        tuple(plots),
    )


def _latency_figure(comparison: Comparison, rows: Sequence[RowSummary]) -> Figure:
    plots, metric = [], comparison.metric
    for batch, table in comparison.latency.items():
        shown = [row for row in rows if row.score and batch in row.latency]
        if not shown:
            continue
        data = ScatterData(
            shown,
            comparison.rows,
            [row.latency[batch].paired_ratio for row in shown],
            [units.format_latency(row.latency[batch]) for row in shown],
            f"time relative to {table.reference} (log scale)",
            _TIME_TICKS,
            metric,
            unbeaten(rows, metric, comparison.latency),
            joins=size_joins(shown),
        )
        title = f"{metric.title} against latency (batch {batch})"
        name = f"score_latency_batch_{batch}"
        plots.append(_scatter(name, title, f"batch {batch}", data))
    return Figure(
        "score-latency",
        f"{metric.title} against latency",
        f"{_better(metric)} Unstructured sparsity moves no row to the left. Pale lines "
        "join rows of equal size, zeros packed away; full points are the rows that no "
        "other beats in score, bytes and latency.",
        tuple(plots),
    )


def _scatter(name: str, title: str, view: str, data: ScatterData) -> Plot:
    return Plot(
        name,
        title,
        view,
        wide=scatter_spec(data, *WIDE),
        narrow=scatter_spec(data, *NARROW),
    )


def _curve_figure(
    comparison: Comparison, key: str, title: str, axis_title: str, factor: float
) -> Figure:
    points = mean_curves(comparison, key)
    for point in points:
        point["value"] *= factor
    plots = ()
    if points:
        wide, narrow = (
            lines_spec(
                points,
                comparison.rows,
                title=axis_title,
                width=size[0],
                is_wide=size == WIDE,
            )
            for size in (WIDE, NARROW)
        )
        plots = (Plot(f"curve_{key}", title, "", wide, narrow),)
    caption = "Mean over seeds. Choose rows in the legend (shift for several)."
    return Figure(f"curve-{key}", title, caption, plots)


def _better(metric: MetricRecord) -> str:
    side = "Up" if metric.higher_is_better else "Down"
    return f"{side} and to the left is better."
