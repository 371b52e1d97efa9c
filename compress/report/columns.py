"""The columns of the table: heading, text and number of each, said once."""

import dataclasses
from collections.abc import Callable, Sequence

from compress.report import units
from compress.report.records import Comparison, nearest_names
from compress.report.rows import RowSummary
from compress.report.sizes import COLUMNS

ACCOUNTINGS = ("file", "dense", "bitmask", "zlib")
"""Size columns that are shown unless others are asked for."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes:
      key: Name in links and in the page's HTML.
      title: Heading.
      hint: What the column holds, in a sentence.
      text: Row to the text shown.
      number: Row to the number it is sorted by; None sorts last.
      remark: Row to a remark on that number, `within noise`; empty for none.
      is_latency: Whether it was measured apart from the runs.
    """

    key: str
    title: str
    hint: str
    text: Callable[[RowSummary], str]
    number: Callable[[RowSummary], float | None]
    remark: Callable[[RowSummary], str] = lambda row: ""
    is_latency: bool = False

    def full_text(self, row: RowSummary) -> str:
        """Text and remark in one."""
        return f"{self.text(row)} {self.remark(row)}".strip()


def table_columns(
    comparison: Comparison, accountings: Sequence[str] = ACCOUNTINGS
) -> list[Column]:
    """The columns after the row's name, in order.

    Raises:
      ValueError: If an accounting is not one of `sizes.COLUMNS`.
    """
    return [
        *_score_columns(comparison),
        *_extra_columns(comparison),
        _sparsity_column(),
        *(_size_column(accounting) for accounting in accountings),
        *_compute_columns(),
        *(
            _latency_column(batch, table.reference)
            for batch, table in comparison.latency.items()
        ),
        Column(
            "agreement",
            "Artifact = trained",
            "Test items for which the exported artifact and the trained forward decide "
            "the same; not known where the outputs are not scores of classes.",
            lambda row: units.format_percent(row.agreement, 2),
            lambda row: row.agreement,
        ),
        Column(
            "seeds",
            "Seeds",
            "Seeds that finished, and seeds that failed.",
            _seeds_text,
            lambda row: len(row.seeds),
        ),
    ]


def _score_columns(comparison: Comparison) -> list[Column]:
    metric = comparison.metric
    better = "Higher" if metric.higher_is_better else "Lower"
    unit = metric.points or "difference"
    return [
        Column(
            "score",
            metric.heading,
            f"Test {metric.name} of the exported artifact: mean ± standard deviation "
            f"over seeds. {better} is better.",
            lambda row: units.format_score(row.score, metric),
            lambda row: row.score.mean if row.score else None,
        ),
        Column(
            "difference",
            f"Δ to {comparison.reference}",
            f"{unit.capitalize()} relative to {comparison.reference}, paired by seed, "
            "with the 95 % interval.",
            lambda row: units.format_difference(row.difference, metric),
            lambda row: row.difference.mean if row.difference else None,
            lambda row: units.noise_mark(row.difference),
        ),
    ]


def _extra_columns(comparison: Comparison) -> list[Column]:
    """What is reported beside the score, in the order in which it was first met."""
    cells = comparison.cells
    names = [n for c in cells for n in (*c.metric.derived(c.score), *c.extras)]
    return [_extra_column(name) for name in dict.fromkeys(names)]


def _extra_column(name: str) -> Column:
    def number(row: RowSummary) -> float | None:
        return row.extras[name].mean if name in row.extras else None

    return Column(
        f"extra_{name}",
        name[:1].upper() + name[1:],
        f"Test {name} of the exported artifact: mean ± standard deviation over seeds.",
        lambda row: units.format_extra(row.extras.get(name)),
        number,
    )


def _sparsity_column() -> Column:
    return Column(
        "sparsity",
        "Sparsity",
        "Fraction of zeros among the weights that can be pruned.",
        lambda row: units.format_percent(row.sparsity),
        lambda row: row.sparsity,
    )


def _size_column(accounting: str) -> Column:
    if accounting not in COLUMNS:
        raise ValueError(
            f"accounting {accounting!r} is not one of {', '.join(COLUMNS)}. "
            f"The nearest: {nearest_names(accounting, list(COLUMNS))}."
        )

    def text(row: RowSummary) -> str:
        size = units.format_bytes(row.sizes.get(accounting))
        ratio = row.size_ratio(accounting)
        return size if ratio is None else f"{size} ({units.format_ratio(ratio)})"

    title = "Weights file" if accounting == "file" else f"Size, {accounting}"
    return Column(
        accounting,
        title,
        f"Bytes of all arrays shipped, {COLUMNS[accounting]}; in brackets, how many "
        "times smaller than float32. The programs come on top.",
        text,
        lambda row: row.sizes.get(accounting),
    )


def _compute_columns() -> list[Column]:
    return [
        Column(
            "macs",
            "MACs",
            "Multiply-accumulates of one example, zeros included.",
            lambda row: units.format_count(row.macs),
            lambda row: row.macs,
        ),
        Column(
            "bops",
            "BOPs",
            "Bit operations: MACs * weight bits * activation bits.",
            lambda row: units.format_count(row.bops),
            lambda row: row.bops,
        ),
        Column(
            "theoretical_bops",
            "BOPs * density (theoretical)",
            "Bit operations if zero weights were skipped; no kernel here skips them.",
            lambda row: units.format_count(row.theoretical_bops),
            lambda row: row.theoretical_bops,
        ),
    ]


def _latency_column(batch: int, reference: str) -> Column:
    def number(row: RowSummary) -> float | None:
        return row.latency[batch].paired_ratio if batch in row.latency else None

    return Column(
        f"latency_{batch}",
        f"Latency, batch {batch}",
        f"Time relative to the artifact of {reference}, below 1 is faster; in "
        "brackets, the median.",
        lambda row: units.format_latency(row.latency.get(batch)),
        number,
        is_latency=True,
    )


def _seeds_text(row: RowSummary) -> str:
    failed = f" ({row.num_failed} failed)" if row.num_failed else ""
    return f"{len(row.seeds)}{failed}"
