"""Lines behind a scatter plot that say which rows are of equal size."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from compress.report import units
from compress.report.labels import Box, text_box
from compress.report.pareto import packed_bytes
from compress.report.rows import RowSummary
from compress.report.scales import Domain

_EQUAL = 1.05  # sizes closer than this are equal
_FACTORS = (1, 2, 4, 8, 16, 32, 64, 128)
_COLOR = "#888888"
_TEXT_BELOW = 15  # px


@dataclasses.dataclass(frozen=True)
class Level:
    """A line at one cost: `4x`, a quarter of float32."""

    cost: float
    text: str


@dataclasses.dataclass(frozen=True)
class Join:
    """A line through rows of one size."""

    rows: tuple[str, ...]
    text: str


def size_levels(rows: Sequence[RowSummary]) -> list[Level]:
    """Where a network would be 1, 2, 4 ... times smaller than float32."""
    whole = max(row.sizes["float"] for row in rows)
    return [Level(whole / factor, f"{factor}x") for factor in _FACTORS]


def size_joins(rows: Sequence[RowSummary]) -> list[Join]:
    """Rows of equal size, as they would be shipped, best score last."""
    groups: list[list[RowSummary]] = []
    for row in sorted(rows, key=packed_bytes):
        if groups and packed_bytes(row) <= _EQUAL * packed_bytes(groups[-1][0]):
            groups[-1].append(row)
        else:
            groups.append([row])
    return [
        Join(
            tuple(row.name for row in sorted(group, key=_score)),
            units.format_bytes(packed_bytes(group[0])),
        )
        for group in groups
        if len(group) > 1
    ]


def level_layers(
    alt: Any, levels: Sequence[Level], domain: Domain, encoding: dict[str, Any]
) -> list[Any]:
    """Vertical lines, each with its text at the top."""
    low, high = domain
    inside = [dataclasses.asdict(each) for each in levels if low < each.cost < high]
    if not inside:
        return []
    base = alt.Chart(alt.Data(values=inside)).encode(x=encoding["x"])
    text = base.mark_text(align="left", dx=3, fontSize=9, opacity=0.8, color=_COLOR)
    return [
        base.mark_rule(strokeDash=[1, 3], color=_COLOR),
        text.encode(y=alt.value(7), text="text:N"),
    ]


def join_layers(
    alt: Any,
    joins: Sequence[Join],
    values: Sequence[dict[str, Any]],
    encoding: dict[str, Any],
) -> list[Any]:
    """A broad pale line through the rows of each size, its text below the lowest."""
    points = {value["row"]: value for value in values}
    entries = [
        {
            **{key: points[row][key] for key in ("cost", "score")},
            "size": join.text,
            "order": order,
        }
        for join in joins
        for order, row in enumerate(join.rows)
    ]
    if not entries:
        return []
    base = alt.Chart(alt.Data(values=entries)).encode(**encoding)
    lines = base.mark_line(
        strokeWidth=11,
        opacity=0.16,
        color=_COLOR,
        strokeCap="round",
        strokeJoin="round",
    )
    texts = base.transform_filter("datum.order == 0").mark_text(
        dy=_TEXT_BELOW, fontSize=9, color=_COLOR
    )
    return [
        lines.encode(detail="size:N", order="order:Q"),
        texts.encode(text="size:N"),
    ]


def join_boxes(
    joins: Sequence[Join], pixels: dict[str, tuple[float, float]]
) -> list[Box]:
    """Where those texts are, so that no name goes there."""
    places = ((join.text, pixels[join.rows[0]]) for join in joins)
    return [text_box(text, x, y + _TEXT_BELOW) for text, (x, y) in places]


def _score(row: RowSummary) -> float:
    return row.score.mean if row.score else 0.0
