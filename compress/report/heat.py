"""What is left of a network: sparsity per site over time, units per group."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from compress.report.curves import mean_curves
from compress.report.extras import require
from compress.report.records import Cell, Comparison

SPARSITY = "sparsity/"  # metrics of this name are those of one site
_ROW_HEIGHT = 18  # px
_MAX_CELLS = 96
"""Cells across: more cannot be told apart on a screen."""


@dataclasses.dataclass(frozen=True)
class HeatData:
    """What to draw: one line of cells per name.

    Attributes:
      cells: `name`, `start` and `end` on the axis across, `value`, `text` on hovering.
      across: Title of the axis across.
      color: Title of the colors, which are percentages.
    """

    cells: Sequence[dict[str, Any]]
    across: str
    color: str


def heat_spec(data: HeatData, width: int, *, is_wide: bool) -> dict[str, Any]:
    """The Vega-Lite specification, its inner part at most `width` pixels wide."""
    alt = require("altair")
    names = list(dict.fromkeys(cell["name"] for cell in data.cells))
    labels = 190 if is_wide else 90
    legend = alt.Legend(
        title=data.color,
        orient="right" if is_wide else "bottom",
        gradientLength=120,
    )
    chart = (
        alt.Chart(alt.Data(values=list(data.cells)))
        .mark_rect(stroke=None)
        .encode(
            x=alt.X(
                "start:Q",
                title=data.across,
                scale=alt.Scale(nice=False, zero=False),
                axis=alt.Axis(tickCount=width // 80, grid=False),
            ),
            x2="end:Q",
            y=alt.Y(
                "name:N",
                title=None,
                sort=names,
                scale=alt.Scale(paddingInner=0.12),
                axis=alt.Axis(labelLimit=labels, domain=False, ticks=False),
            ),
            color=alt.Color(
                "value:Q",
                scale=alt.Scale(domain=[0, 100], scheme="viridis"),
                legend=legend,
            ),
            tooltip=[
                alt.Tooltip("name:N"),
                alt.Tooltip("text:N", title=data.across),
                alt.Tooltip("value:Q", title=data.color, format=".1f"),
            ],
        )
        .properties(width=width - labels, height=_ROW_HEIGHT * len(names))
    )
    return alt.layer(chart).to_dict(validate=False)


def sparsity_cells(comparison: Comparison, row: str) -> list[dict[str, Any]]:
    """How sparse each site of a row is at each time, the mean over its seeds."""
    cells = []
    for key in _sparsity_keys(comparison.cells_of(row)):
        points = [p for p in mean_curves(comparison, key) if p["row"] == row]
        starts = [0, *(point["step"] for point in points)]
        cells += [
            {
                "name": key.removeprefix(SPARSITY),
                "start": start,
                "end": point["step"],
                "value": 100 * point["value"],
                "text": f"{point['step']} ({point['stage']})",
            }
            for start, point in zip(starts, points)
        ]
    return cells


def _sparsity_keys(cells: Sequence[Cell]) -> list[str]:
    keys = (key for cell in cells for line in cell.metrics for key in line)
    return list(dict.fromkeys(key for key in keys if key.startswith(SPARSITY)))


def unit_cells(comparison: Comparison, row: str) -> list[dict[str, Any]]:
    """How often each unit of a row survived, over its seeds; layers on their own."""
    survivals: dict[str, list[np.ndarray]] = {}
    for cell in comparison.cells_of(row):
        for name, alive in _survivals(cell):
            survivals.setdefault(name, []).append(alive)
    widest = max((len(s[0]) for s in survivals.values()), default=1)
    width = -(-widest // _MAX_CELLS)
    return [
        cell
        for name, several in survivals.items()
        for cell in _binned(name, np.mean(several, axis=0), width)
    ]


def _survivals(cell: Cell) -> Iterable[tuple[str, np.ndarray]]:
    """Whether each unit is left, by group, or by layer of a group."""
    for name, units in cell.units.items():
        rows = np.atleast_2d(np.asarray(units["kept"], int))
        for layer, kept in enumerate(rows):
            alive = np.zeros(units["size"])
            alive[kept] = 1.0
            yield (f"{name} [{layer}]" if len(rows) > 1 else name), alive


def _binned(name: str, alive: np.ndarray, width: int) -> Iterable[dict[str, Any]]:
    for start in range(0, len(alive), width):
        end = min(start + width, len(alive))
        shown = f"{start}" if end == start + 1 else f"{start} to {end - 1}"
        yield {
            "name": f"{name} ({alive.sum():g} of {len(alive)})",
            "start": start,
            "end": end,
            "value": float(100 * alive[start:end].mean()),
            "text": shown,
        }
