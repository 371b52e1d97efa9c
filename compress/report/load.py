"""Reads a compare directory: `compare.json`, measurements, and a folder per cell.

Whatever cannot be read of a cell makes it a `FailedCell` with the reason, so that one
broken run is shown in the report and does not stop it.
"""

import dataclasses
import json
import pathlib
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from compress.config import parse_contrast
from compress.report.items import unpack_items
from compress.report.metric import MetricRecord
from compress.report.records import (
    Cell,
    Comparison,
    FailedCell,
    Fragility,
    LatencyRecord,
    LatencyTable,
    Metrics,
    Sensitivity,
    SiteRecord,
    check_rows,
)
from compress.report.sizes import COLUMNS

FORMAT_VERSION = 2
_RENAMED = {  # keys of version 1, which knew no other metric than the accuracy
    "accuracy": "score",
    "trained_accuracy": "trained_score",
    "eval_accuracy": "eval_score",
}


def load_compare(compare_dir: str | pathlib.Path) -> Comparison:
    """Reads a compare directory.

    A folder is a cell if it holds `result.json`, `error.json` or `metrics.jsonl`. A
    cell with an `error.json` has failed, even if an older result lies beside it.

    Raises:
      FileNotFoundError: If there is no `compare.json`.
      ValueError: If `compare.json` or a measurement is malformed.
    """
    directory = pathlib.Path(compare_dir)
    settings = _load_settings(directory / "compare.json")
    cells, failed = _load_cells(directory, settings["rows"])
    present = {(cell.row, cell.seed) for cell in (*cells, *failed)}
    failed += [
        FailedCell(row, seed, "no result.json: not run, or stopped before the end")
        for row in settings["rows"]
        for seed in settings["seeds"]
        if (row, seed) not in present
    ]
    return Comparison(
        **settings,
        machines=_machines(directory, cells),
        cells=tuple(cells),
        failed=tuple(failed),
        latency=_load_latency(directory / "latency.json"),
        sensitivity=_load_sensitivity(directory / "sensitivity.json"),
    )


def _load_settings(path: pathlib.Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: not found. Pass the directory that a comparison was written to."
        )
    raw = _read_json(path)
    _require(raw, ("name", "rows", "reference", "seeds"), path)
    settings = {
        "name": str(raw["name"]),
        "rows": tuple(raw["rows"]),
        "reference": raw["reference"],
        "seeds": tuple(raw["seeds"]),
        "versions": raw.get("versions", {}),
        "notes": (*raw.get("notes", ()), *raw.get("unmeasured", ())),
        "contrasts": tuple(map(parse_contrast, raw.get("contrasts", ()))),
        "declared_after": tuple(raw.get("declared_after", ())),
        "factors": tuple(raw.get("factors", ())),
        "design": {row: tuple(has) for row, has in raw.get("design", {}).items()},
    }
    check_rows([settings["reference"]], settings["rows"], f"{path}: reference")
    return settings


def _machines(directory: pathlib.Path, cells: Sequence[Cell]) -> tuple[Any, ...]:
    """Where the runs were trained, each machine once."""
    found: list[Any] = []
    for cell in cells:
        path = directory / cell.folder / "run.json"
        machine = _read_json(path).get("machine") if path.exists() else None
        if machine and machine not in found:
            found.append(machine)
    return tuple(found)


def _load_cells(
    directory: pathlib.Path, rows: Sequence[str]
) -> tuple[list[Cell], list[FailedCell]]:
    cells, failed = {}, []
    for folder in sorted(path for path in directory.iterdir() if path.is_dir()):
        loaded = load_cell(folder)
        if isinstance(loaded, Cell):
            loaded = _place(loaded, folder, rows, cells)
        if isinstance(loaded, FailedCell):
            failed.append(loaded)
        elif loaded is not None:
            cells[loaded.row, loaded.seed] = loaded
    return list(cells.values()), failed


def _place(
    cell: Cell, folder: pathlib.Path, rows: Sequence[str], cells: Mapping[Any, Cell]
) -> Cell | FailedCell:
    """The cell, or why it has no place in the comparison."""
    if cell.row not in rows:
        reason = f"{folder.name}: row {cell.row!r} is not in compare.json"
    elif (cell.row, cell.seed) in cells:
        reason = f"{folder.name}: a second result for this row and seed; not used"
    elif any(other.metric != cell.metric for other in cells.values()):
        others = next(iter(cells.values())).metric.name
        reason = (
            f"{folder.name}: is judged by {cell.metric}, other runs by {others}; run "
            "it again with the task as it is now"
        )
    else:
        return cell
    return FailedCell(cell.row, cell.seed, reason)


def load_cell(folder: pathlib.Path) -> Cell | FailedCell | None:
    """What a cell's folder holds: a result, what went wrong, or neither yet."""
    result, error = folder / "result.json", folder / "error.json"
    try:
        if error.exists():
            raw = _read_json(error)
            row = str(raw.get("row", folder.name))
            return FailedCell(row, raw.get("seed"), str(raw.get("error", "no message")))
        return _parse_result(result) if result.exists() else None
    except (ValueError, TypeError, KeyError) as problem:
        row, seed = _identity(result)
        return FailedCell(row or folder.name, seed, str(problem))


def _identity(result: pathlib.Path) -> tuple[str | None, int | None]:
    """Row and seed of a result that is broken elsewhere."""
    try:
        raw = _read_json(result)
    except (ValueError, OSError):
        return None, None
    return raw.get("row"), raw.get("seed")


def _parse_result(path: pathlib.Path) -> Cell:
    raw = _upgraded(_read_json(path), path)
    _require(raw, ("metric", "num_test", "sites", "sizes", "records"), path)
    _require(raw["sizes"], tuple(COLUMNS), path)
    metrics, num_unreadable = _read_metrics(path.with_name("metrics.jsonl"))
    records = [str(record) for record in raw["records"]]
    if num_unreadable:
        records.append(f"metrics.jsonl: {num_unreadable} unreadable lines left out")
    parsed = {
        "folder": path.parent.name,
        "metric": _build(MetricRecord, raw["metric"], path),
        "items": _items(raw, path),
        "sites": [_build(SiteRecord, site, path) for site in raw["sites"]],
        "records": records,
        "metrics": metrics,
    }
    return _build(Cell, {**raw, **parsed}, path)


def _upgraded(raw: dict[str, Any], path: pathlib.Path) -> dict[str, Any]:
    """A result with the keys of this version.

    Raises:
      ValueError: If it is of a version that is not known.
    """
    version = raw.get("format_version")
    if version == 1:
        return {**_renamed(raw), "metric": {}}
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version is {version}, not {FORMAT_VERSION}. Export the "
            "cell again with this version."
        )
    return raw


def _renamed(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {_RENAMED.get(key, key): value for key, value in raw.items()}


def _items(raw: Mapping[str, Any], path: pathlib.Path) -> Any:
    try:
        return unpack_items(raw, raw["num_test"])
    except ValueError as problem:
        raise ValueError(f"{path}: {problem}") from problem


def _read_metrics(path: pathlib.Path) -> tuple[tuple[Metrics, ...], int]:
    """One mapping per step, and how many lines could not be read.

    A resumed run writes some steps twice: the later line wins, key by key.
    """
    steps: dict[int, dict[str, Any]] = {}
    num_unreadable = 0
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = _renamed(json.loads(line))
            steps.setdefault(int(record["step"]), {}).update(record)
        except (ValueError, KeyError, TypeError, AttributeError):
            num_unreadable += 1
    return tuple(steps[step] for step in sorted(steps)), num_unreadable


def _load_latency(path: pathlib.Path) -> dict[int, LatencyTable]:
    if not path.exists():
        return {}
    raw = _read_json(path)
    _require(raw, ("batches",), path)
    tables = {}
    for size, batch in raw["batches"].items():
        entries = {
            name: _build(LatencyRecord, entry, path)
            for name, entry in batch.get("entries", {}).items()
        }
        tables[int(size)] = _build(LatencyTable, {**batch, "entries": entries}, path)
    return dict(sorted(tables.items()))


def _load_sensitivity(path: pathlib.Path) -> Sensitivity | None:
    if not path.exists():
        return None
    raw = _read_json(path)
    if raw.get("format_version") != 1:
        version = raw.get("format_version")
        raise ValueError(f"{path}: format_version is {version}, not 1. Remove it.")
    _require(raw, ("sites",), path)
    sites = tuple(_build(Fragility, site, path) for site in raw["sites"])
    return _build(Sensitivity, {**raw, "sites": sites}, path)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text())
    except ValueError as problem:
        raise ValueError(f"{path}: not JSON ({problem}). Write it again.") from problem
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(raw).__name__}.")
    return raw


def _require(raw: Mapping[str, Any], keys: Sequence[str], path: pathlib.Path) -> None:
    missing = [key for key in keys if key not in raw]
    if missing:
        raise ValueError(f"{path}: missing {', '.join(missing)}. Write it again.")


def _build(cls: Any, raw: Mapping[str, Any], path: pathlib.Path) -> Any:
    """The dataclass from the keys of the same names; other keys are left out."""
    fields = dataclasses.fields(cls)
    missing = dataclasses.MISSING
    needed = [
        f.name for f in fields if f.default is missing and f.default_factory is missing
    ]
    _require(raw, needed, path)
    return cls(
        **{f.name: _coerce(raw[f.name], f.type) for f in fields if f.name in raw}
    )


def _coerce(value: Any, kind: Any) -> Any:
    """What JSON cannot tell apart: 1 and 1.0, lists and tuples."""
    if kind in (int, float, str):
        return kind(value)
    return tuple(value) if typing.get_origin(kind) is tuple else value
