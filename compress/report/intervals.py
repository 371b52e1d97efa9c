"""A number per name, as a line from zero, with its interval where there is one."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from compress.report.extras import require
from compress.report.scales import COLORS

_ROW_HEIGHT = 22  # px


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line.

    Attributes:
      name: Of what was measured.
      value: In the units of the axis.
      interval: Around it; None if it is not known.
      group: What gives it its color.
      text: What else to say on hovering.
    """

    name: str
    value: float
    interval: tuple[float, float] | None
    group: str
    text: str


def interval_spec(
    entries: Sequence[Entry], *, title: str, width: int, is_wide: bool
) -> dict[str, Any]:
    """The Vega-Lite specification, its inner part at most `width` pixels wide."""
    alt = require("altair")
    labels = 190 if is_wide else 90
    groups = list(dict.fromkeys(entry.group for entry in entries))
    legend = alt.Legend(title=None, orient="bottom") if len(groups) > 1 else None
    color = alt.Color(
        "group:N",
        scale=alt.Scale(domain=groups, range=list(COLORS[: len(groups)])),
        legend=legend,
    )
    base = alt.Chart(alt.Data(values=[_value(entry) for entry in entries])).encode(
        y=alt.Y(
            "name:N",
            title=None,
            sort=[entry.name for entry in entries],
            axis=alt.Axis(labelLimit=labels, domain=False, ticks=False, grid=True),
        )
    )
    x = alt.X("value:Q", title=title, axis=alt.Axis(tickCount=max(3, width // 110)))
    zero = alt.X("zero:Q", title=title)
    layers = [
        base.mark_rule(strokeWidth=1.5).encode(x=zero),
        base.mark_rule(strokeWidth=1, opacity=0.5).encode(
            x=zero, x2="value:Q", color=color
        ),
        base.transform_filter("datum.low != null")
        .mark_rule(strokeWidth=3)
        .encode(x=alt.X("low:Q", title=title), x2="high:Q", color=color),
        base.mark_circle(size=70, opacity=1).encode(
            x=x, color=color, tooltip=_tooltip(alt, title)
        ),
    ]
    height = _ROW_HEIGHT * len(entries)
    chart = alt.layer(*layers).properties(width=width - labels, height=height)
    return chart.to_dict(validate=False)  # half the time; a test validates


def _value(entry: Entry) -> dict[str, Any]:
    low, high = entry.interval or (None, None)
    shown = dataclasses.asdict(entry)
    del shown["interval"]
    return {**shown, "low": low, "high": high, "zero": 0}


def _tooltip(alt: Any, title: str) -> list[Any]:
    return [
        alt.Tooltip("name:N"),
        alt.Tooltip("value:Q", title=title, format="+.4~g"),
        alt.Tooltip("text:N", title=" "),
    ]
