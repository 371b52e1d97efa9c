"""The lock file of a comparison: all it takes to run it again, and what it came to."""

import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from compress.config import nearest
from compress.config.base import Many, Model
from compress.export import read_manifest
from compress.files import write_json
from compress.report import LOCK, Cell, Comparison, load_compare

FORMAT = "jax-compress lock"
FORMAT_VERSION = 2


class LockError(ValueError):
    """A lock that cannot be written, read or reproduced."""


class Numbers(Model):
    """What one cell came to; every number that a run decides and no clock.

    Not the size of the programs: they hold the lines they were traced from, and what a
    process traced before decides which.

    Attributes:
      config_hash: Of the cell's own config.
      program_seeds: Of all runs that were trained in one program, whose number
        decides roundings; None: not known, as format 1 did not tell.
      checkpoint_hash: Of every bit of the trained state.
      weights_hash: Of the artifact's file of weights.
      items_hash: Of the metric of every test item.
      score: Of the artifact on the test set.
      score_error: The standard error of `score` over test items, at least one item.
      trained_score: Before export.
      agreement: Of artifact and trained forward, where outputs are classes.
      sparsity: Fraction of zeros.
      macs: Multiply-accumulates for one example.
      sizes: Bytes in every accounting.
      extras: Other means over the test set.
    """

    config_hash: str
    program_seeds: Many[int] | None = None
    checkpoint_hash: str
    weights_hash: str
    items_hash: str
    score: float
    score_error: float
    trained_score: float
    agreement: float | None
    sparsity: float
    macs: int
    sizes: Mapping[str, int]
    extras: Mapping[str, float]


class Origin(Model):
    """With what cells were made."""

    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    git_commit: str | None


class Lock(Model):
    """The content of a lock file.

    Attributes:
      format: Says what the file is.
      format_version: Of the keys.
      name: Of the comparison.
      config: Resolved, with every default.
      data_hash: Of all examples.
      metric: What `score` measures.
      seeds: That every row was meant to run.
      origins: Each once; several if cells were made in several ways.
      cells: By row and seed; those that failed are not there.
      content_hash: Of everything else in the file.
    """

    format: Literal["jax-compress lock"]
    format_version: Literal[1, 2]
    name: str
    config: Mapping[str, Any]
    data_hash: str
    metric: Mapping[str, Any]
    seeds: Many[int]
    origins: Many[Origin]
    cells: Mapping[str, Mapping[str, Numbers]]
    content_hash: str


def write_lock(directory: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """Writes the lock of a finished comparison.

    Args:
      directory: Of the comparison.
      path: Of the lock.

    Raises:
      LockError: If no cell is finished, or what a lock needs is not there.
    """
    comparison = load_compare(directory)
    if not comparison.cells:
        raise LockError(f"{directory}: no finished cell, so nothing to lock.")
    try:
        content = _content(comparison, directory)
    except (OSError, ValueError, KeyError) as error:
        raise LockError(
            f"{directory}: cannot be locked ({type(error).__name__}: {error}). Run "
            "`compare` again: it makes what is missing."
        ) from error
    return write_json(path, {**content, "content_hash": _hash(content)})


def read_lock(path: pathlib.Path) -> Lock:
    """Reads a lock file.

    Raises:
      LockError: If it is none, is of a newer format, or was changed by hand.
    """
    raw = _read(path)
    version = raw.get("format_version")
    if raw.get("format") != FORMAT:
        raise LockError(f"{path}: is no lock. Name the {LOCK} beside a report.")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise LockError(
            f"{path}: has format {version!r}, this version of jax-compress knows "
            f"{FORMAT_VERSION}. Use a newer one."
        )
    try:
        lock = Lock.model_validate(raw)
    except ValidationError as error:
        raise LockError(f"{path}: {'; '.join(_problems(error))}.") from None
    if raw.pop("content_hash") != _hash(raw):
        raise LockError(
            f"{path}: was changed after it was written: its content has another hash. "
            "Restore it; to run something else, use `compare` with a config."
        )
    return lock


def numbers_of(cell: Cell, directory: pathlib.Path) -> Numbers:
    """The numbers of a finished cell, as a lock holds them."""
    manifest = read_manifest(directory / cell.folder / cell.artifact)
    return Numbers(
        config_hash=cell.config_hash,
        program_seeds=_read(directory / cell.folder / "run.json").get("program_seeds"),
        checkpoint_hash=cell.checkpoint_hash,
        weights_hash=manifest["files"]["weights.safetensors"]["sha256"],
        items_hash=hashlib.sha256(np.ascontiguousarray(cell.items).data).hexdigest(),
        score=cell.score,
        score_error=_standard_error(cell.items),
        trained_score=cell.trained_score,
        agreement=cell.agreement,
        sparsity=cell.sparsity,
        macs=cell.macs,
        sizes=dict(cell.sizes),
        extras=dict(cell.extras),
    )


def _standard_error(items: np.ndarray) -> float:
    """Of the mean; one item that is right or wrong is the least that can change."""
    error = float(items.astype(np.float64).std() / np.sqrt(items.size))
    return max(error, 1 / items.size) if items.dtype == bool else error


def _content(comparison: Comparison, directory: pathlib.Path) -> dict[str, Any]:
    """What goes into the file, but for its own hash."""
    runs = [_read(directory / c.folder / "run.json") for c in comparison.cells]
    hashes = {run["data_hash"] for run in runs}
    if len(hashes) > 1:
        raise LockError("its cells were trained on different data")
    cells: dict[str, dict[str, Any]] = {row: {} for row in comparison.rows}
    for cell in comparison.cells:
        numbers = numbers_of(cell, directory)
        cells[cell.row][str(cell.seed)] = numbers.model_dump(mode="json")
    metric = comparison.metric
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": comparison.name,
        "config": _read(directory / "config.json"),
        "data_hash": hashes.pop(),
        "metric": {key: getattr(metric, key) for key in metric.__dataclass_fields__},
        "seeds": list(comparison.seeds),
        "origins": _distinct(
            {key: run[key] for key in Origin.model_fields} for run in runs
        ),
        "cells": {row: by_seed for row, by_seed in cells.items() if by_seed},
    }


def _distinct(items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({json.dumps(item, sort_keys=True): item for item in items}.values())


def _hash(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not JSON: {error}"
        raise LockError(f"{path}: cannot be read ({reason}).") from None
    if not isinstance(raw, dict):
        raise LockError(f"{path}: holds {type(raw).__name__}, not a mapping.")
    return raw


def _problems(error: ValidationError) -> list[str]:
    """What does not fit, and where, in our words for what is most likely."""
    lines = []
    for problem in error.errors()[:5]:
        *above, key = problem["loc"]
        where = ".".join(map(str, above))
        if problem["type"] == "extra_forbidden":
            known = Lock if not above else Numbers if above[0] == "cells" else Origin
            near = nearest(str(key), known.model_fields)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            lines.append(f"unknown key {key!r}{f' in {where}' if where else ''}{meant}")
        else:
            lines.append(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}")
    return lines
