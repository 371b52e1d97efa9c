"""The manifest of a sweep: which cells there are, where, and with what values."""

import csv
import hashlib
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from compress.compare.cell import CellError
from compress.compare.grid import cell_folder
from compress.compare.measures import measures_of
from compress.config import MEASURES, Combination, Config, config_hash, row_config
from compress.files import write_json, write_text
from compress.report import Cell, load_cell

MANIFEST = "manifest.json"
TABLE = "sweep.csv"


def sweep_hash(config: Config) -> str:
    """What a sweep is: its config, but not how many trials a search is given."""
    values = config.model_dump(mode="json")
    if config.sweep is not None and config.sweep.search is not None:
        del values["sweep"]["search"]["trials"]
    for key in ("log_every", "checkpoint_every", "keep_checkpoints"):
        del values[key]
    # Not sorted: the order of a grid's values is the order of its cells.
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def check_manifest(config: Config, directory: pathlib.Path) -> None:
    """Refuses a directory that holds something else than this sweep.

    Raises:
      CellError: If its manifest is of another config, or there is a comparison.
    """
    path = directory / MANIFEST
    if not path.exists():
        if (directory / "compare.json").exists():
            raise CellError(
                f"{directory}: holds a comparison. Choose another --workdir."
            )
        return
    try:
        found = json.loads(path.read_text())["config_hash"]
    except (ValueError, KeyError, TypeError) as error:
        raise CellError(
            f"{path}: not a manifest ({type(error).__name__}: {error}). Remove it; the "
            "same command writes it again, and finds the cells that are finished."
        ) from None
    if found != sweep_hash(config):
        raise CellError(
            f"{directory}: holds another sweep ({str(found)[:12]}; this one is "
            f"{sweep_hash(config)[:12]}). Choose another --workdir."
        )


def write_manifest(
    config: Config,
    rows: Config,
    runs: Sequence[Combination],
    directory: pathlib.Path,
) -> list[dict[str, Any]]:
    """Writes the cells down, numbered run by run and seed by seed, and returns them.

    Args:
      config: With `sweep`.
      rows: The comparison of its runs.
      runs: In order.
      directory: Of the sweep.
    """
    assert rows.compare is not None
    cells = []
    for run, row in zip(runs, rows.compare.rows, strict=True):
        identity = config_hash(row_config(rows, row))
        for seed in rows.seeds:
            cell = {
                "id": len(cells),
                "run": run.name,
                "seed": seed,
                "folder": cell_folder(run.name, seed),
                "overrides": dict(run.overrides),
                "config_hash": identity,
            }
            cells.append(cell)
    manifest = {
        "format_version": 1,
        "name": config.name,
        "config_hash": sweep_hash(config),
        "config": config.model_dump(mode="json"),
        "cells": cells,
    }
    write_json(directory / MANIFEST, manifest)
    return cells


def write_table(
    cells: Sequence[dict[str, Any]],
    directory: pathlib.Path,
    marks: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Writes `sweep.csv`: a line per cell, with what it sets and what it gave.

    Args:
      cells: Of the manifest.
      directory: Of the sweep.
      marks: By run, further columns.
    """
    paths = list(dict.fromkeys(path for cell in cells for path in cell["overrides"]))
    columns = ["id", "run", "seed", "state", *paths, *MEASURES, "train_seconds"]
    marks = marks or {}
    columns += list(dict.fromkeys(name for mark in marks.values() for name in mark))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for cell in cells:
        given = {path: json.dumps(x) for path, x in cell["overrides"].items()}
        known = {key: cell[key] for key in ("id", "run", "seed")}
        outcome = _outcome(directory / cell["folder"])
        writer.writerow({**known, **given, **outcome, **marks.get(cell["run"], {})})
    write_text(directory / TABLE, text.getvalue())


def _outcome(folder: pathlib.Path) -> dict[str, Any]:
    cell = load_cell(folder) if folder.is_dir() else None
    if not isinstance(cell, Cell):
        return {"state": "open" if cell is None else "failed"}
    seconds = round(cell.train_seconds, 2)
    return {"state": "finished", **measures_of(cell), "train_seconds": seconds}
