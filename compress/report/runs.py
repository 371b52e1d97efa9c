"""The single runs behind the rows, each with the folder that it came from."""

import csv
import io
import urllib.parse
from typing import Any, NamedTuple

from compress.report import units
from compress.report.columns import Column
from compress.report.records import Cell, Comparison
from compress.report.rows import RowSummary
from compress.report.sizes import COLUMNS

RUN_COLUMNS = (
    "Row",
    "Seed",
    "Score",
    "Trained",
    "Weights file",
    "Steps",
    "Train time",
    "Programs",
    "Config",
    "Checkpoint",
)


class RunLine(NamedTuple):
    """One finished run, as a line of a table.

    Attributes:
      anchor: Where a row's numbers lead to, on its first run; else None.
      folder: Address of the run's folder.
      values: One text per column of `RUN_COLUMNS`.
      files: Which file of the folder each of them is from; None for the row's name.
    """

    anchor: str | None
    folder: str
    values: tuple[str, ...]
    files: tuple[str | None, ...]


class Links:
    """Addresses of runs, relative to the page."""

    def __init__(self, comparison: Comparison, root: str) -> None:
        """Args: the comparison, and the way from the page to its directory."""
        self._comparison = comparison
        self._root = urllib.parse.quote(root)

    def of(self, row: RowSummary, column: Column) -> str | None:
        """What a number of the table leads to; None where there is no number."""
        if column.number(row) is None:
            return None
        if column.is_latency:
            return f"{self._root}/latency.json"
        cells = self._comparison.cells_of(row.name)
        if len(cells) == 1:
            return f"{self.folder(cells[0])}/result.json"
        return f"#{self._anchor(row.name)}" if cells else None

    def folder(self, cell: Cell) -> str:
        """Of a run."""
        return f"{self._root}/{urllib.parse.quote(cell.folder)}"

    def lines(self) -> list[RunLine]:
        """Every finished run, row by row."""
        return [
            RunLine(
                self._anchor(row) if index == 0 else None,
                self.folder(cell),
                _values(cell),
                _FILES,
            )
            for row in self._comparison.rows
            for index, cell in enumerate(self._comparison.cells_of(row))
        ]

    def _anchor(self, row: str) -> str:
        return f"runs-{self._comparison.rows.index(row)}"


_FILES = (
    None,
    "result.json",
    "result.json",
    "result.json",
    "artifact/manifest.json",
    "metrics.jsonl",
    "metrics.jsonl",
    "artifact/manifest.json",
    "config.json",
    "run.json",
)


def _values(cell: Cell) -> tuple[str, ...]:
    return (
        cell.row,
        str(cell.seed),
        cell.metric.with_unit(cell.score),
        cell.metric.with_unit(cell.trained_score),
        units.format_bytes(cell.sizes["file"]),
        f"{cell.train_steps:,}",
        f"{cell.train_seconds:.0f} s",
        units.format_bytes(cell.program_bytes),
        cell.config_hash[:12],
        cell.checkpoint_hash[:12],
    )


def runs_csv(comparison: Comparison) -> str:
    """Every number of every run, in base units, a line each."""
    cells = [c for row in comparison.rows for c in comparison.cells_of(row)]
    numbers = [_numbers(cell) for cell in cells]
    fields = dict.fromkeys(key for line in numbers for key in line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(numbers)
    return text.getvalue()


def _numbers(cell: Cell) -> dict[str, Any]:
    return {
        "row": cell.row,
        "seed": cell.seed,
        "folder": cell.folder,
        "techniques": " ".join(cell.techniques),
        "metric": cell.metric.name,
        "score": cell.score,
        "trained_score": cell.trained_score,
        **cell.metric.derived(cell.score),
        **cell.extras,
        "agreement": cell.agreement,
        "sparsity": cell.sparsity,
        **{f"{column}_bytes": cell.sizes[column] for column in COLUMNS},
        "program_bytes": cell.program_bytes,
        "macs": cell.macs,
        "train_steps": cell.train_steps,
        "train_seconds": cell.train_seconds,
        "config_hash": cell.config_hash,
        "checkpoint_hash": cell.checkpoint_hash,
    }
