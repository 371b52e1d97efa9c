"""The table of a comparison: for the terminal, for Markdown, for a spreadsheet."""

import csv
import io
from collections.abc import Sequence
from typing import Any

import rich.box
import rich.console
import rich.markup
import rich.table

from compress.report.claim_texts import TextTable, claim_notes, text_tables
from compress.report.columns import ACCOUNTINGS, Column, table_columns
from compress.report.notes import table_notes
from compress.report.records import Comparison
from compress.report.rows import RowSummary, summarize_rows
from compress.report.sizes import COLUMNS


def render_table(
    comparison: Comparison,
    *,
    style: str = "markdown",
    accountings: Sequence[str] = ACCOUNTINGS,
    contrasts: Sequence[Any] | None = None,
    width: int | None = None,
) -> str:
    """The table as text.

    Args:
      comparison: From `load_compare`.
      style: `markdown` or `terminal`, both with notes below; or `csv`, which has
        plain numbers in base units and no notes.
      accountings: Size columns to show, from `sizes.COLUMNS`.
      contrasts: Claims about pairs of rows, in any spelling a config takes; None takes
        those of `compare.json`.
      width: Characters of a terminal line; None asks the terminal.
    """
    rows = summarize_rows(comparison)
    if style == "csv":
        return _csv(comparison, rows)
    columns = table_columns(comparison, accountings)
    notes = table_notes(comparison, rows, accountings)
    if style == "markdown":
        tables = text_tables(comparison, contrasts)
        return _markdown(rows, columns, tables, notes)
    if style == "terminal":
        notes = [*claim_notes(comparison, contrasts), *notes]
        return _terminal(comparison, rows, columns, notes, width)
    raise ValueError(
        f"render_table: unknown style {style!r}. Use markdown, terminal or csv."
    )


def row_numbers(row: RowSummary, comparison: Comparison) -> dict[str, Any]:
    """Every number of a row, in base units: fractions, bytes, microseconds."""
    score, difference = row.score, row.difference
    interval = score.interval if score else None
    numbers: dict[str, Any] = {
        "row": row.name,
        "techniques": " ".join(row.techniques),
        "num_seeds": len(row.seeds),
        "num_failed": row.num_failed,
        "metric": comparison.metric.name,
        "score_mean": score.mean if score else None,
        "score_sd": score.sd if score else None,
        **_ends("score", interval),
        "difference_mean": difference.mean if difference else None,
        **_ends("difference", difference.interval if difference else None),
        **_ends("difference_bootstrap", difference.bootstrap if difference else None),
        "within_noise": difference.within_noise if difference else None,
        "trained_score": row.trained_score,
        "agreement": row.agreement,
        "sparsity": row.sparsity,
        **{f"{column}_bytes": row.sizes.get(column) for column in COLUMNS},
        "macs": row.macs,
        "bops": row.bops,
        "theoretical_bops": row.theoretical_bops,
        "train_seconds": row.train_seconds,
    }
    for batch in comparison.latency:
        entry = row.latency.get(batch)
        numbers[f"latency_us_batch_{batch}"] = entry.median_us if entry else None
        numbers[f"latency_iqr_us_batch_{batch}"] = entry.iqr_us if entry else None
        numbers[f"latency_ratio_batch_{batch}"] = entry.paired_ratio if entry else None
    for name, extra in row.extras.items():
        numbers |= {f"{name}_mean": extra.mean, f"{name}_sd": extra.sd}
    return numbers


def _ends(name: str, interval: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _markdown(
    rows: Sequence[RowSummary],
    columns: Sequence[Column],
    tables: Sequence[TextTable],
    notes: Sequence[str],
) -> str:
    lines = [[row.name, *(column.full_text(row) for column in columns)] for row in rows]
    parts = [_markdown_table(["Row", *(column.title for column in columns)], lines)]
    parts += [
        f"**{table.title}**\n\n{_markdown_table(table.columns, table.lines)}"
        for table in tables
        if table.lines
    ]
    notes = [*(note for table in tables for note in table.notes), *notes]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes)]) + "\n"


def _markdown_table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
        for line in [columns, rule, *lines]
    )


def _terminal(
    comparison: Comparison,
    rows: Sequence[RowSummary],
    columns: Sequence[Column],
    notes: Sequence[str],
    width: int | None,
) -> str:
    output = io.StringIO()
    console = rich.console.Console(file=output, width=width)
    console.print(comparison.name, style="bold", markup=False, highlight=False)
    for group in _fitting(rows, columns, console.width):
        console.print(_rich_table(rows, group))
    for note in notes:
        console.print(f"- {note}", markup=False, highlight=False)
    return output.getvalue()


def _rich_table(
    rows: Sequence[RowSummary], columns: Sequence[Column]
) -> rich.table.Table:
    table = rich.table.Table(box=rich.box.SIMPLE)
    table.add_column("Row", no_wrap=True)
    for column in columns:
        title = rich.markup.escape(column.title)
        table.add_column(title, justify="right", width=_least_width(rows, column))
    for row in rows:
        texts = [row.name, *(_stacked(column.full_text(row)) for column in columns)]
        table.add_row(*(rich.markup.escape(text) for text in texts))
    return table


def _fitting(
    rows: Sequence[RowSummary], columns: Sequence[Column], width: int
) -> list[list[Column]]:
    """The columns in as many tables as it takes for none to be cut off."""
    name_width = max(len(row.name) for row in rows) + 4
    groups: list[list[Column]] = [[]]
    left = width - name_width
    for column in columns:
        needed = _least_width(rows, column) + 3  # spaces around it
        if needed > left and groups[-1]:
            groups.append([])
            left = width - name_width
        groups[-1].append(column)
        left -= needed
    return groups


def _least_width(rows: Sequence[RowSummary], column: Column) -> int:
    """Characters that show every value whole; headings may wrap between words."""
    lines = [
        line for row in rows for line in _stacked(column.full_text(row)).split("\n")
    ]
    return max(map(len, [*column.title.split(), *lines]))


def _stacked(text: str) -> str:
    """A value over its remarks: narrow enough for a terminal."""
    return text.replace(" (", "\n(").replace(" [", "\n[").replace("] ", "]\n")


def _csv(comparison: Comparison, rows: Sequence[RowSummary]) -> str:
    numbers = [row_numbers(row, comparison) for row in rows]
    text = io.StringIO()
    fields = dict.fromkeys(key for row in numbers for key in row)
    writer = csv.DictWriter(text, list(fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(numbers)
    return text.getvalue()
