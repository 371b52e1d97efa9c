"""From cells to rows: one summary per row of the table."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from compress.report.compute import theoretical_bops, total_bops
from compress.report.records import (
    Cell,
    Comparison,
    LatencyRecord,
    SiteRecord,
    check_rows,
)
from compress.report.stats import Difference, Summary, paired_difference, summarize


@dataclasses.dataclass(frozen=True)
class RowSummary:
    """A row over its seeds. Numbers are None, mappings empty, if no seed finished.

    Attributes:
      name: Name of the row.
      techniques: In order.
      seeds: Seeds that finished.
      num_failed: Seeds that did not.
      score: Of the exported artifacts, before the metric's scale.
      difference: To the reference row; None for the reference itself.
      trained_score: Mean score before export.
      agreement: Mean fraction of items for which artifact and trained forward decide
        the same; None if it was not measured.
      sparsity: Mean fraction of zeros.
      sizes: Mean bytes per column.
      macs: Multiply-accumulates for one example.
      bops: Bit operations for one example.
      theoretical_bops: `bops` scaled by density.
      train_seconds: Mean wall time of training.
      latency: Batch size to what was measured.
      sites: Sites of the first seed that finished.
      records: Fallbacks and the like, each once, over all seeds.
      extras: Other numbers on the test set by name, such as the perplexity.
    """

    name: str
    techniques: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    num_failed: int = 0
    score: Summary | None = None
    difference: Difference | None = None
    trained_score: float | None = None
    agreement: float | None = None
    sparsity: float | None = None
    sizes: Mapping[str, float] = dataclasses.field(default_factory=dict)
    macs: float | None = None
    bops: float | None = None
    theoretical_bops: float | None = None
    train_seconds: float | None = None
    latency: Mapping[int, LatencyRecord] = dataclasses.field(default_factory=dict)
    sites: tuple[SiteRecord, ...] = ()
    records: tuple[str, ...] = ()
    extras: Mapping[str, Summary] = dataclasses.field(default_factory=dict)

    def size_ratio(self, column: str) -> float | None:
        """How many times smaller than the float32 twin."""
        return self.sizes["float"] / self.sizes[column] if self.sizes else None


def summarize_rows(comparison: Comparison) -> list[RowSummary]:
    """One summary per row, in the order of the comparison."""
    return [_summarize_row(comparison, name) for name in comparison.rows]


def compare_rows(
    comparison: Comparison, row: str, other: str, confidence: float = 0.95
) -> Difference | None:
    """`row - other`, paired over seeds; None if no seed finished in both."""
    check_rows([row, other], comparison.rows, "contrast")
    cells, other_cells = comparison.cells_of(row), comparison.cells_of(other)
    sizes = {cell.num_test for cell in (*cells, *other_cells)}
    same_items = len(sizes) == 1  # else the items cannot be paired
    return paired_difference(
        _by_seed(cells),
        _by_seed(other_cells),
        items={c.seed: c.items for c in cells} if same_items else None,
        reference_items={c.seed: c.items for c in other_cells},
        confidence=confidence,
    )


def _summarize_row(comparison: Comparison, name: str) -> RowSummary:
    cells = comparison.cells_of(name)
    latency = {
        batch: table.entries[name]
        for batch, table in comparison.latency.items()
        if name in table.entries
    }
    row = RowSummary(
        name,
        num_failed=sum(failed.row == name for failed in comparison.failed),
        latency=latency,
    )
    if not cells:
        return row
    is_reference = name == comparison.reference
    return dataclasses.replace(
        row,
        **_means(cells),
        techniques=cells[0].techniques,
        seeds=tuple(cell.seed for cell in cells),
        score=summarize([cell.score for cell in cells]),
        extras=_extras(cells),
        difference=None
        if is_reference
        else compare_rows(comparison, name, comparison.reference),
        sizes={
            column: float(np.mean([cell.sizes[column] for cell in cells]))
            for column in cells[0].sizes
            if all(column in cell.sizes for cell in cells)
        },
        sites=cells[0].sites,
        records=tuple(dict.fromkeys(r for cell in cells for r in cell.records)),
    )


def _means(cells: Sequence[Cell]) -> dict[str, float | None]:
    """The mean over seeds of each number; None if a seed did not measure it."""
    values = {
        "trained_score": [cell.trained_score for cell in cells],
        "agreement": [cell.agreement for cell in cells],
        "sparsity": [cell.sparsity for cell in cells],
        "macs": [cell.macs for cell in cells],
        "bops": [total_bops(cell.sites) for cell in cells],
        "theoretical_bops": [theoretical_bops(cell.sites) for cell in cells],
        "train_seconds": [cell.train_seconds for cell in cells],
    }
    return {name: _mean(column) for name, column in values.items()}


def _extras(cells: Sequence[Cell]) -> dict[str, Summary]:
    """Every other number that all seeds have; what follows from the score first."""
    each = [{**cell.metric.derived(cell.score), **cell.extras} for cell in cells]
    names = [name for name in each[0] if all(name in extras for extras in each)]
    return {name: summarize([extras[name] for extras in each]) for name in names}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _by_seed(cells: Sequence[Cell]) -> dict[int, float]:
    return {cell.seed: cell.score for cell in cells}
