"""Score against a cost, one named point per row, with the Pareto front."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from compress.report import units
from compress.report.extras import require
from compress.report.guides import (
    Join,
    Level,
    join_boxes,
    join_layers,
    level_layers,
)
from compress.report.labels import Box, place_labels
from compress.report.metric import MetricRecord
from compress.report.pareto import pareto_front
from compress.report.rows import RowSummary
from compress.report.scales import Domain, log_domain, log_ticks, padded, row_color


@dataclasses.dataclass(frozen=True)
class ScatterData:
    """What to draw.

    Attributes:
      rows: The rows shown; each has a score.
      row_names: Every row of the comparison, for its color.
      costs: One positive number per row shown.
      cost_texts: The costs as the reader should see them.
      cost_title: Title of the cost's axis.
      tick_label: Vega expression for a tick of that axis.
      metric: What the rows are judged by.
      best: Rows that no other beats in score, bytes and latency at once.
      levels: Lines at certain costs.
      joins: Lines through rows of equal size.
    """

    rows: Sequence[RowSummary]
    row_names: Sequence[str]
    costs: Sequence[float]
    cost_texts: Sequence[str]
    cost_title: str
    tick_label: str
    metric: MetricRecord
    best: frozenset[str]
    levels: Sequence[Level] = ()
    joins: Sequence[Join] = ()


def scatter_spec(data: ScatterData, width: int, height: int) -> dict[str, Any]:
    """The Vega-Lite specification, its inner part `width` x `height` pixels."""
    alt = require("altair")
    values, x_domain, y_domain = _values(data, width, height)
    encoding = {
        "x": alt.X(
            "cost:Q",
            title=data.cost_title,
            scale=alt.Scale(type="log", domain=list(x_domain), nice=False),
            axis=alt.Axis(
                values=log_ticks(*x_domain, width), labelExpr=data.tick_label
            ),
        ),
        "y": alt.Y(
            "score:Q",
            title=data.metric.axis,
            scale=alt.Scale(domain=list(y_domain), nice=False, zero=False),
            axis=alt.Axis(tickCount=6),
        ),
    }
    base = alt.Chart(alt.Data(values=values)).encode(**encoding)
    layers = [
        *level_layers(alt, data.levels, x_domain, encoding),
        *join_layers(alt, data.joins, values, encoding),
        _front(base),
        *_points(alt, base, data),
        *_names(base),
    ]
    chart = alt.layer(*layers).properties(width=width, height=height)
    return chart.to_dict(validate=False)  # half the time; a test validates


def _front(base: Any) -> Any:
    line = base.transform_filter("datum.front").mark_line(
        strokeDash=[4, 3], interpolate="step-after", opacity=0.7, color="#888888"
    )
    return line.encode(order="cost:Q")


def _points(alt: Any, base: Any, data: ScatterData) -> list[Any]:
    colors = [row_color(data.row_names, name) for name in data.row_names]
    scale = alt.Scale(domain=list(data.row_names), range=colors)
    color = alt.Color("row:N", legend=None, scale=scale)
    tooltip = [
        alt.Tooltip("row:N", title="row"),
        alt.Tooltip("score_text:N", title=data.metric.axis),
        alt.Tooltip("difference_text:N", title="difference"),
        alt.Tooltip("cost_text:N", title=data.cost_title.partition(" (")[0]),
        alt.Tooltip("sparsity_text:N", title="sparsity"),
        alt.Tooltip("techniques:N", title="techniques"),
        alt.Tooltip("best_text:N", title="in score, size and latency"),
    ]
    return [
        base.mark_rule(opacity=0.5).encode(y="low:Q", y2="high:Q", color=color),
        base.mark_point(size=70, filled=True, strokeWidth=2, opacity=1).encode(
            color=color,
            stroke=color,
            tooltip=tooltip,
            fillOpacity=alt.condition("datum.best", alt.value(1), alt.value(0)),
        ),
    ]


def _names(base: Any) -> list[Any]:
    lines = base.transform_filter("datum.is_far").mark_rule(
        opacity=0.45, strokeWidth=0.8
    )
    return [
        lines.encode(x2="line_x:Q", y2="line_y:Q"),
        base.mark_text(fontSize=11).encode(x="label_x:Q", y="label_y:Q", text="row:N"),
    ]


def _values(
    data: ScatterData, width: int, height: int
) -> tuple[list[dict[str, Any]], Domain, Domain]:
    """The points with their names placed, and the two domains."""
    merits = [data.metric.merit(_shown(row, data.metric)) for row in data.rows]
    front = set(pareto_front(data.costs, merits))
    values = [
        _point(row, data.metric, cost, text, i in front) | _standing(row, data.best)
        for i, (row, cost, text) in enumerate(
            zip(data.rows, data.costs, data.cost_texts, strict=True)
        )
    ]
    x_domain = log_domain(data.costs)
    y_domain = padded(
        min(value["low"] for value in values),
        max(value["high"] for value in values),
        least=data.metric.scale / 1000,
    )
    _place(values, data.joins, x_domain, y_domain, width, height)
    return values, x_domain, y_domain


def _point(
    row: RowSummary, metric: MetricRecord, cost: float, text: str, front: bool
) -> dict[str, Any]:
    score = _shown(row, metric)
    spread = metric.scale * row.score.sd if row.score and row.score.sd else 0.0
    return {
        "row": row.name,
        "cost": cost,
        "cost_text": text,
        "score": score,
        "low": score - spread,
        "high": score + spread,
        "front": front,
        "score_text": units.format_score(row.score, metric),
        "difference_text": units.format_difference(row.difference, metric),
        "sparsity_text": units.format_percent(row.sparsity),
        "techniques": " → ".join(row.techniques) or "none",
    }


def _standing(row: RowSummary, best: frozenset[str]) -> dict[str, Any]:
    is_best = row.name in best
    return {"best": is_best, "best_text": "no row beats it" if is_best else "beaten"}


def _place(
    values: list[dict[str, Any]],
    joins: Sequence[Join],
    x_domain: Domain,
    y_domain: Domain,
    width: int,
    height: int,
) -> None:
    """Adds where the name and the end of its line go to each point, in data units."""
    x_low, x_high = map(math.log, x_domain)
    x_scale, y_scale = width / (x_high - x_low), height / (y_domain[1] - y_domain[0])

    def pixels(cost: float, score: float) -> tuple[float, float]:
        return (math.log(cost) - x_low) * x_scale, (y_domain[1] - score) * y_scale

    bars = []
    for value in values:
        x, top = pixels(value["cost"], value["high"])
        bars.append(Box(x - 1, top, x + 1, pixels(value["cost"], value["low"])[1]))
    points = {v["row"]: pixels(v["cost"], v["score"]) for v in values}
    bars += join_boxes(joins, points)
    labels = place_labels(
        list(points.values()),
        [value["row"] for value in values],
        width=width,
        height=height,
        obstacles=bars,
    )
    for value, label in zip(values, labels, strict=True):
        value["label_x"] = math.exp(x_low + label.x / x_scale)
        value["label_y"] = y_domain[1] - label.y / y_scale
        value["line_x"] = math.exp(x_low + label.line_x / x_scale)
        value["line_y"] = y_domain[1] - label.line_y / y_scale
        value["is_far"] = label.is_far


def _shown(row: RowSummary, metric: MetricRecord) -> float:
    return metric.scale * row.score.mean if row.score else math.nan
