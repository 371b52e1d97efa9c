"""Sentences generated from the numbers: the summary and the notes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compress.report import units
from compress.report.metric import MetricRecord
from compress.report.records import Comparison
from compress.report.rows import RowSummary
from compress.report.sizes import COLUMNS

SPARSITY_NOTE = (
    "Unstructured sparsity shrinks the file, not XLA's latency: zeros are multiplied "
    "like any other number."
)
UNITS_NOTE = (
    "{rows}: whole units are gone, from file, arithmetic and latency; the ratio of "
    "sizes is to float32 of the network before that, and sparsity is that of the "
    "weights that are left."
)

_UNKNOWN = "a machine that was not recorded"


def summary_sentences(comparison: Comparison, rows: Sequence[RowSummary]) -> list[str]:
    """What a reader in a hurry should know, in order."""
    finished = [row for row in rows if row.score]
    metric = comparison.metric
    sentences = [_scope(comparison)]
    if not finished:
        return [*sentences, "No run finished, so there is nothing to compare."]
    best = max(finished, key=lambda row: metric.merit(_score(row)))
    sentences.append(f"{metric.best}: {_describe(best, metric)}.")
    smallest = min(finished, key=lambda row: row.sizes["file"])
    sentences.append(
        f"Smallest weights file: {_describe(smallest, metric)}, {_size(smallest)}."
    )
    packed = min(finished, key=lambda row: row.sizes["bitmask"])
    sentences.append(
        f"Smallest with zeros packed away (bitmask): {_describe(packed, metric)}, "
        f"{_size(packed, 'bitmask')}."
    )
    not_worse = [row for row in finished if _not_worse(row, comparison)]
    if not_worse:
        row = min(not_worse, key=lambda row: row.sizes["file"])
        sentences.append(
            f"Smallest weights file not measurably worse than {comparison.reference}: "
            f"{row.name}, {_size(row)}; that it is as good is another claim."
        )
    return sentences + [
        _fastest(batch, table.reference, finished)
        for batch, table in comparison.latency.items()
    ]


def table_notes(
    comparison: Comparison,
    rows: Sequence[RowSummary],
    accountings: Sequence[str],
) -> list[str]:
    """What must stand under the table for its numbers to be read right."""
    sizes = "; ".join(f"{name}: {COLUMNS[name]}" for name in accountings)
    return [
        SPARSITY_NOTE,
        *_units_notes(comparison),
        _metric_note(comparison),
        _seeds_note(comparison),
        "Sizes count all arrays of the weights file: weights, scales, biases, the "
        f"model's state; in kB of 1000 bytes. {sizes}. The ratio is to float32.",
        *_program_notes(comparison),
        "BOPs * density are theoretical: no kernel used here skips single zeros.",
        *_latency_notes(comparison),
        _machine_note(comparison),
        *(_failed_note(row) for row in rows if row.num_failed),
        *comparison.notes,
    ]


def _scope(comparison: Comparison) -> str:
    num_cells = len(comparison.cells)
    tasks = ", ".join(sorted({cell.task for cell in comparison.cells}))
    on = f" on {tasks}" if tasks else ""
    seeds = _plural(len(comparison.seeds), "seed")
    failed = f", {len(comparison.failed)} failed" if comparison.failed else ""
    return (
        f"{_plural(len(comparison.rows), 'row')}{on}, {seeds} each: "
        f"{_plural(num_cells, 'run')} finished{failed}."
    )


def _seeds_note(comparison: Comparison) -> str:
    seeds = ", ".join(map(str, comparison.seeds))
    num_seeds = len(comparison.seeds)
    if num_seeds == 1:
        return (
            f"One seed ({seeds}): there is no interval, and no difference can be told "
            "from noise."
        )
    return (
        f"{num_seeds} seeds ({seeds}), the same for every row. Intervals are 95 %, "
        "Student's t on differences paired by seed, not corrected for the number of "
        'comparisons. "Within noise" means that this interval, or the one over seeds '
        "and test items, contains 0; not that the rows are equal."
    )


def _metric_note(comparison: Comparison) -> str:
    metric = comparison.metric
    note = f"{metric.title} is that of the exported artifact, run on the test set"
    if metric.higher_is_better:
        return f"{note}."
    return f"{note}; lower is better, so a positive difference is a loss."


def _units_notes(comparison: Comparison) -> list[str]:
    """Which rows are smaller networks than the one they were trained from."""
    shrunk = [
        row
        for row in comparison.rows
        if any(_lost_units(cell.units) for cell in comparison.cells_of(row))
    ]
    return [UNITS_NOTE.format(rows=", ".join(shrunk))] if shrunk else []


def _lost_units(units: Mapping[str, Any]) -> bool:
    return any(np.shape(u["kept"])[-1] < u["size"] for u in units.values())


def _program_notes(comparison: Comparison) -> list[str]:
    """What an artifact holds besides its weights file."""
    if not comparison.cells:
        return []
    sizes = [cell.program_bytes for cell in comparison.cells]
    low, high = (units.format_bytes(size) for size in (min(sizes), max(sizes)))
    span = low if low == high else f"{low} to {high}"
    return [
        f"On top of every size come the artifact's programs, {span} together, and its "
        "manifest."
    ]


def _latency_notes(comparison: Comparison) -> list[str]:
    if not comparison.latency:
        return ["Latency was not measured."]
    tables = comparison.latency
    batches = " and ".join(str(batch) for batch in tables)
    table = next(iter(tables.values()))
    return [
        f"Latency: exported artifacts at batch {batches}, warm, rows interleaved in "
        f"random order, {table.repetitions} repetitions of at least "
        f"{table.min_sample_ms:g} ms each. The ratio is the median over rounds of the "
        f"time relative to {table.reference} in the same round; below 1 is faster.",
        f"Latency was measured on {_machine(table.machine)}, "
        f"backend {table.machine.get('backend', 'unknown')}.",
    ]


def _machine_note(comparison: Comparison) -> str:
    machines = dict.fromkeys(map(_machine, comparison.machines)) or {_UNKNOWN: None}
    return f"Trained on {'; '.join(machines)}."


def _machine(machine: object) -> str:
    known = machine if isinstance(machine, dict) else {}
    cpu = known.get("cpu") or known.get("name") or _UNKNOWN
    cpus = known.get("num_usable_cpus") or known.get("num_cpus")
    device = known.get("device")
    extra = f", {device}" if device and device != "cpu" else ""
    return f"{cpu}{extra}" + (f", {cpus} CPUs" if cpus else "")


def _failed_note(row: RowSummary) -> str:
    return f"{row.name}: {_plural(row.num_failed, 'seed')} failed and left out."


def _not_worse(row: RowSummary, comparison: Comparison) -> bool:
    """Compressed, with an interval whose better end is not worse than 0."""
    difference = row.difference
    if row.name == comparison.reference or not difference or not difference.interval:
        return False
    return max(map(comparison.metric.merit, difference.interval)) >= 0


def _fastest(batch: int, reference: str, rows: Sequence[RowSummary]) -> str:
    timed = [row for row in rows if batch in row.latency]
    if not timed:
        return f"No row was timed at batch {batch}."
    row = min(timed, key=lambda row: row.latency[batch].paired_ratio)
    entry = row.latency[batch]
    usual = [r.latency[batch].quartiles_us[0] for r in timed if r.name == reference]
    if usual and entry.quartiles_us[1] >= usual[0]:
        return (
            f"At batch {batch} no row is measurably faster than {reference}: the "
            "middle halves of their times overlap."
        )
    return (
        f"Fastest at batch {batch}: {row.name}, "
        f"{units.format_ratio(entry.paired_ratio)} the time of {reference} "
        f"({units.format_microseconds(entry.median_us)})."
    )


def _describe(row: RowSummary, metric: MetricRecord) -> str:
    text = f"{row.name}, {units.format_score(row.score, metric)} {metric.unit}".strip()
    if row.difference is None:
        return text
    mark = units.noise_mark(row.difference)
    mark = f", {mark}" if mark else ""
    difference = units.format_difference(row.difference, metric)
    return f"{text} ({f'{difference} {metric.points}'.strip()}{mark})"


def _size(row: RowSummary, column: str = "file") -> str:
    size, ratio = row.sizes[column], row.size_ratio(column)
    return (
        f"{units.format_bytes(size)}, {units.format_ratio(ratio)} smaller than float32"
    )


def _score(row: RowSummary) -> float:
    return row.score.mean if row.score else math.nan


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
