"""One page that holds everything and asks the network for nothing."""

import dataclasses
import functools
import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

from compress.report import units
from compress.report.claim_texts import text_tables
from compress.report.columns import ACCOUNTINGS, table_columns
from compress.report.compute import density
from compress.report.extras import require
from compress.report.figure import Figure
from compress.report.notes import summary_sentences, table_notes
from compress.report.pareto import packed_bytes, unbeaten
from compress.report.records import Comparison, SiteRecord
from compress.report.rows import RowSummary
from compress.report.runs import RUN_COLUMNS, Links


def render_html(
    comparison: Comparison,
    rows: Sequence[RowSummary],
    figures: Sequence[Figure],
    contrasts: Sequence[Any] | None = None,
    root: str = "..",
    lock: str | None = None,
) -> str:
    """The page, with the plotting library, styles and scripts inside.

    Args:
      comparison: From `load_compare`.
      rows: Its rows.
      figures: Its figures.
      contrasts: Claims; None takes those of the comparison.
      root: The way from the page to the comparison's directory.
      lock: The way to its lock file, if there is one.
    """
    jinja2 = require("jinja2")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    notes = table_notes(comparison, rows, ACCOUNTINGS)
    links = Links(comparison, root)
    return environment.get_template("template.html.j2").render(
        comparison=comparison,
        summary=summary_sentences(comparison, rows),
        text_tables=text_tables(comparison, contrasts),
        notes=notes,
        columns=table_columns(comparison),
        rows=rows,
        figures=[figure for figure in figures if figure.plots],
        plots={figure.name: _views(figure) for figure in figures},
        site_columns=_SITE_COLUMNS,
        site_values=_site_values,
        provenance=_provenance(comparison),
        links=links,
        run_columns=RUN_COLUMNS,
        techniques=list(dict.fromkeys(t for row in rows for t in row.techniques)),
        best=unbeaten(rows, comparison.metric, comparison.latency),
        packed_bytes=packed_bytes,
        lock=lock,
        library=_plot_library() if any(figure.plots for figure in figures) else "",
    )


@functools.cache
def _plot_library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, safe inside a script element."""
    bundle = require("vl_convert").javascript_bundle()
    return bundle.replace("</script", "<\\/script")


def _asset(name: str) -> str:
    return importlib.resources.files("compress.report").joinpath(name).read_text("utf8")


def _views(figure: Figure) -> list[dict[str, Any]]:
    return [dataclasses.asdict(plot) for plot in figure.plots]


_SITE_COLUMNS = (
    "Site",
    "Op",
    "Weight shape",
    "Bits, weight x activation",
    "MACs",
    "Weights",
    "Zeros",
    "Scales",
    "Left out because",
)


def _site_values(site: SiteRecord) -> list[str]:
    return [
        site.name,
        site.op,
        " x ".join(map(str, site.shape)) or units.MISSING,
        f"{site.weight_bits} x {site.activation_bits}",
        units.format_count(site.macs),
        f"{site.num_weights:,}",
        units.format_percent(1 - density(site)),
        f"{site.num_scales:,}",
        site.reason or "",
    ]


def _provenance(comparison: Comparison) -> dict[str, str]:
    """What is needed to make these numbers again, flat."""
    return {
        "comparison": comparison.name,
        "reference row": comparison.reference,
        "seeds": ", ".join(map(str, comparison.seeds)),
        **{
            key: text
            for number, machine in enumerate(comparison.machines, 1)
            for key, text in _flat(f"machine {number}", machine).items()
        },
        **_flat("version", comparison.versions),
        **{
            key: text
            for batch, table in comparison.latency.items()
            for key, text in _flat(f"latency batch {batch}", table.machine).items()
        },
    }


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, str]:
    flat = {}
    for key, value in values.items():
        name = f"{prefix}: {key}".replace("_", " ")
        if isinstance(value, Mapping):
            flat |= _flat(f"{prefix}: {key}", value)
        else:
            flat[name] = str(value)
    return flat
