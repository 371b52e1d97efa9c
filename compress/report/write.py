"""The command of this package: a compare directory in, a report out."""

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from compress.files import write_bytes, write_text
from compress.report.charts import all_figures
from compress.report.extras import require
from compress.report.figure import Figure, Plot
from compress.report.html import render_html
from compress.report.load import load_compare
from compress.report.rows import summarize_rows
from compress.report.runs import runs_csv
from compress.report.table import render_table

LOCK = "lock.json"
"""The lock file that the page names, if it lies beside it."""

_PNG_SCALE = 2  # pixels per unit: sharp on a high-density screen


class ReportPaths(NamedTuple):
    """Where the parts of a report were written.

    Attributes:
      html: The page.
      markdown: The table with its notes.
      csv: Every number of every row.
      runs: Every number of every run, as CSV.
      plots: One PNG per plot.
    """

    html: pathlib.Path
    markdown: pathlib.Path
    csv: pathlib.Path
    runs: pathlib.Path
    plots: tuple[pathlib.Path, ...]


def write_report(
    compare_dir: str | pathlib.Path,
    out_dir: str | pathlib.Path | None = None,
    *,
    contrasts: Sequence[Any] | None = None,
) -> ReportPaths:
    """Writes `report.html`, `table.md`, `table.csv`, `runs.csv` and a PNG per plot.

    Args:
      compare_dir: What a comparison wrote; see `load_compare`.
      out_dir: Where to write; `compare_dir / "report"` if None.
      contrasts: Claims about pairs of rows, in any spelling a config takes; None takes
        those of `compare.json`.

    Raises:
      ImportError: If the `report` extra is not installed.
      FileNotFoundError, ValueError: As `load_compare`; ValueError if a contrast names
        a row that does not exist.
    """
    for module in ("altair", "vl_convert", "jinja2"):
        require(module)
    comparison = load_compare(compare_dir)
    out = pathlib.Path(compare_dir) / "report" if out_dir is None else out_dir
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    rows = summarize_rows(comparison)
    figures = all_figures(comparison, rows)
    root = pathlib.Path(os.path.relpath(compare_dir, out)).as_posix()
    lock = LOCK if (out / LOCK).exists() else None
    page = render_html(comparison, rows, figures, contrasts, root, lock)
    markdown = render_table(comparison, contrasts=contrasts)
    table = render_table(comparison, style="csv")
    return ReportPaths(
        html=_write(out / "report.html", page),
        markdown=_write(out / "table.md", markdown),
        csv=_write(out / "table.csv", table),
        runs=_write(out / "runs.csv", runs_csv(comparison)),
        plots=tuple(_write_png(out, plot) for plot in _plots(figures)),
    )


def _plots(figures: Sequence[Figure]) -> Iterator[Plot]:
    for figure in figures:
        yield from figure.plots


def _write(path: pathlib.Path, text: str) -> pathlib.Path:
    write_text(path, text)
    return path


def _write_png(directory: pathlib.Path, plot: Plot) -> pathlib.Path:
    spec = {
        **plot.wide,
        "title": plot.title,
        "background": "white",
        "padding": 12,
    }
    path = directory / f"{plot.name}.png"
    write_bytes(path, require("vl_convert").vegalite_to_png(spec, scale=_PNG_SCALE))
    return path
