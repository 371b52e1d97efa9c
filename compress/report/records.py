"""What a comparison is made of. A cell is one (row, seed)."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compress.config import Contrast
from compress.report.metric import MetricRecord

Metrics = Mapping[str, Any]  # one line of metrics.jsonl: step, stage, loss, ...


@dataclasses.dataclass(frozen=True)
class SiteRecord:
    """One site of the shipped model.

    Attributes:
      name: Its parameter path.
      op: The primitive, `conv` or `dot`.
      shape: Shape of the weight; empty for a site without one.
      macs: Multiply-accumulates for one example.
      weight_bits: Width of the weight as shipped.
      activation_bits: Width of the activation it is multiplied with.
      num_weights: Weights, zeros included.
      num_nonzero: Weights that are not zero.
      num_scales: Scales shipped with it.
      reason: Why it was left out of a technique; None if it was not.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    macs: int
    weight_bits: int
    activation_bits: int
    num_weights: int
    num_nonzero: int
    num_scales: int
    reason: str | None


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """One finished run: `result.json`, with what could be read of `metrics.jsonl`.

    Attributes:
      row: The combination of techniques, `P+Q`.
      seed: Seed of initialization and data order, shared between rows.
      config_hash: Hash of the resolved config.
      task: The task it was trained on.
      metric: What `score` measures.
      score: Of the exported artifact on the test set, before `metric.scale`.
      trained_score: Of the trained forward, before export.
      agreement: Fraction of test items for which artifact and trained forward decide
        the same; None where the outputs are not scores of classes.
      items: `[num_test]`, the metric of each: bool for right and wrong, or float32.
      num_test: Number of test items.
      techniques: In order.
      sparsity: Fraction of zeros among the weights that can be pruned.
      train_seconds: Wall time of training.
      train_steps: Optimizer steps.
      artifact: Folder of the artifact, relative to the cell.
      program_bytes: Size of the exported programs.
      macs: Multiply-accumulates for one example.
      sites: One record per site.
      sizes: Bytes per column, from `size_accounting`.
      records: Fallbacks and other things the reader should know.
      checkpoint_hash: Hash of the trained checkpoint.
      metrics: Training metrics, one mapping per step, in order of steps.
      units: By group of units: `size` before any was removed, and those `kept`, a list
        or a list per layer; empty if none could be.
      extras: Other means over the test set, by name.
      folder: Of the cell, relative to the comparison's.
      validation_score: Like `score`, on the validation set; None if there is none.
    """

    row: str
    seed: int
    config_hash: str
    task: str
    metric: MetricRecord
    score: float
    trained_score: float
    agreement: float | None
    items: np.ndarray
    num_test: int
    techniques: tuple[str, ...]
    sparsity: float
    train_seconds: float
    train_steps: int
    artifact: str
    program_bytes: int
    macs: int
    sites: tuple[SiteRecord, ...]
    sizes: Mapping[str, int]
    records: tuple[str, ...]
    checkpoint_hash: str
    metrics: tuple[Metrics, ...] = ()
    units: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    extras: Mapping[str, float] = dataclasses.field(default_factory=dict)
    folder: str = ""
    validation_score: float | None = None


@dataclasses.dataclass(frozen=True)
class FailedCell:
    """A cell without a usable result; seed is None when even that is not known."""

    row: str
    seed: int | None
    error: str


@dataclasses.dataclass(frozen=True)
class LatencyRecord:
    """One entry of `latency.json`; see `measure_latency`."""

    median_us: float
    quartiles_us: tuple[float, float]
    iqr_us: float
    ratio: float
    paired_ratio: float
    inner_calls: int


@dataclasses.dataclass(frozen=True)
class LatencyTable:
    """One batch size of `latency.json`: how it was measured, and row to entry."""

    reference: str
    repetitions: int
    warmup: int
    min_sample_ms: float
    seed: int
    machine: Mapping[str, Any]
    entries: Mapping[str, LatencyRecord]


@dataclasses.dataclass(frozen=True)
class Fragility:
    """What it costs to compress one parameter alone.

    Attributes:
      name: Its path.
      costs: By how it was compressed: the change of `loss` and of `score`.
    """

    name: str
    costs: Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """`sensitivity.json`: parameters of a float model, each compressed alone.

    Attributes:
      row: The row whose model it is.
      seed: Its seed.
      sample: The part of the data it was measured on.
      num_examples: How many of its examples.
      loss: Of the float model on them.
      score: Likewise.
      sites: One entry per parameter, in the order of the program.
    """

    row: str
    seed: int
    sample: str
    num_examples: int
    loss: float
    score: float
    sites: tuple[Fragility, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Everything the report is made from.

    Attributes:
      name: Name of the comparison.
      rows: Rows in the order they are shown.
      reference: The row that differences are taken to.
      seeds: Seeds that every row was meant to run.
      machines: Where the runs were trained, each machine once.
      versions: Package to version.
      notes: Sentences to print under the table.
      contrasts: What is claimed of pairs of rows.
      declared_after: For each of them, how many runs had finished when it was
        declared; empty if that was not recorded.
      cells: Finished runs.
      failed: Runs without a usable result.
      latency: Batch size to what was measured; empty if nothing was.
      factors: The techniques of the full factorial design, a letter each.
      design: By row of that design, the letters of its techniques.
      sensitivity: What compressing each site alone costs; None if not measured.
    """

    name: str
    rows: tuple[str, ...]
    reference: str
    seeds: tuple[int, ...]
    machines: tuple[Mapping[str, Any], ...]
    versions: Mapping[str, Any]
    notes: tuple[str, ...]
    contrasts: tuple[Contrast, ...]
    declared_after: tuple[int, ...]
    cells: tuple[Cell, ...]
    failed: tuple[FailedCell, ...]
    latency: Mapping[int, LatencyTable]
    factors: tuple[str, ...] = ()
    design: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    sensitivity: Sensitivity | None = None

    @property
    def metric(self) -> MetricRecord:
        """What all rows are judged by."""
        return self.cells[0].metric if self.cells else MetricRecord()

    def cells_of(self, row: str) -> tuple[Cell, ...]:
        """Finished runs of a row, in order of seeds."""
        cells = (cell for cell in self.cells if cell.row == row)
        return tuple(sorted(cells, key=lambda cell: cell.seed))


def check_rows(names: Sequence[str], rows: Sequence[str], where: str) -> None:
    """Raises ValueError for the first name that is not a row."""
    for name in names:
        if name not in rows:
            raise ValueError(
                f"{where}: {name!r} is not a row. The nearest: "
                f"{nearest_names(name, rows)}."
            )


def nearest_names(name: str, known: Sequence[str]) -> str:
    """The names closest to one that does not exist, for an error message."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.3)
    return ", ".join(close or known[:3]) or "none"
