"""A number during training, one line per row."""

from collections.abc import Sequence
from typing import Any

from compress.report.extras import require
from compress.report.scales import row_color, row_dash

_LEGEND_WIDTH = 150  # px
_HEIGHT = 300  # px


def lines_spec(
    points: Sequence[dict[str, Any]],
    row_names: Sequence[str],
    *,
    title: str,
    width: int,
    is_wide: bool,
) -> dict[str, Any]:
    """The Vega-Lite specification of `mean_curves`; the legend chooses rows."""
    alt = require("altair")
    chosen = alt.selection_point(fields=["row"], bind="legend")
    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("step:Q", title="step", axis=alt.Axis(tickCount=width // 80)),
        y=alt.Y(
            "value:Q",
            title=title,
            scale=alt.Scale(zero=False),
            axis=alt.Axis(tickCount=6),
        ),
        opacity=alt.condition(chosen, alt.value(1), alt.value(0.08)),
        **_line_styles(alt, points, row_names, is_wide),
    )
    lines = base.mark_line(strokeWidth=1.6).add_params(chosen)
    inner_width = width - (_LEGEND_WIDTH if is_wide else 0)
    layered = alt.layer(lines, _hover(alt, base, title))
    chart = layered.properties(width=inner_width, height=_HEIGHT)
    return chart.to_dict(validate=False)  # half the time; a test validates


def _line_styles(
    alt: Any,
    points: Sequence[dict[str, Any]],
    row_names: Sequence[str],
    is_wide: bool,
) -> dict[str, Any]:
    """Color and dash of each row, in one legend."""
    present = {point["row"] for point in points}
    rows = [row for row in row_names if row in present]
    colors = [row_color(row_names, row) for row in rows]
    dashes = [row_dash(row_names, row) for row in rows]
    legend = _legend(alt, is_wide)
    return {
        "color": alt.Color(
            "row:N", scale=alt.Scale(domain=rows, range=colors), legend=legend
        ),
        "strokeDash": alt.StrokeDash(
            "row:N", scale=alt.Scale(domain=rows, range=dashes), legend=legend
        ),
    }


def _legend(alt: Any, is_wide: bool) -> Any:
    return alt.Legend(
        title=None,
        orient="right" if is_wide else "bottom",
        columns=1 if is_wide else 2,
        symbolType="stroke",
        symbolSize=300,
        symbolStrokeWidth=2.5,
        labelLimit=110,
    )


def _hover(alt: Any, base: Any, title: str) -> Any:
    """Invisible points that carry the tooltips."""
    return base.mark_point(size=60, filled=True).encode(
        opacity=alt.value(0),
        strokeDash=alt.value([1, 0]),
        tooltip=[
            alt.Tooltip("row:N"),
            alt.Tooltip("step:Q"),
            alt.Tooltip("value:Q", title=title, format=".4~g"),
            alt.Tooltip("stage:N"),
            alt.Tooltip("num_seeds:Q", title="seeds"),
        ],
    )
