"""A sweep: many runs of one config, as the rows of a comparison."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

from compress.compare.cell import CellError
from compress.compare.grid import (
    cells_of,
    measure_latency,
    open_cells,
    run_cells,
    speaker,
)
from compress.compare.manifest import check_manifest, write_manifest, write_table
from compress.compare.search import search
from compress.config import Config, combinations, row_config, with_rows
from compress.task import load_task
from compress.train import check_schedule
from compress.train.directory import claimed


class Shard(NamedTuple):
    """Every `count`-th cell, from number `index` on.

    Attributes:
      index: From 0.
      count: How many shards there are.
    """

    index: int
    count: int


def parse_shard(text: str) -> Shard:
    """Reads `0/4`, the first of four.

    Raises:
      CellError: If it is not that, or out of range.
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise CellError(f"--shard={text}: write which and of how many, such as 0/4.")
    shard = Shard(int(index), int(count))
    if shard.index >= shard.count:
        last = f"0/{count} to {shard.count - 1}/{count}"
        raise CellError(
            f"--shard={text}: out of range; "
            + (f"shards go from {last}." if shard.count else "there is no shard of 0.")
        )
    return shard


def sweep(
    config: Config,
    directory: pathlib.Path,
    *,
    workers: int | None = None,
    shard: Shard | None = None,
    say: Callable[[str], None] | None = None,
) -> int:
    """Runs every cell of a sweep that is not finished yet, and measures latency.

    Writes `manifest.json` before, and `sweep.csv` and all that a comparison has after.

    Args:
      config: With `sweep`, and without `compare`.
      directory: Of the sweep; a folder per cell.
      workers: Processes at a time; by default one per core.
      shard: Runs only its cells, and measures no latency. Several shards may run at
        the same time, on machines that share the directory.
      say: Shows a line of progress.

    Returns:
      How many cells failed; each has an `error.json`.

    Raises:
      CellError: If the directory holds something else, or a search is to be sharded.
      ConfigError: If a run is no valid config.
      InUseError: If another process has the directory.
    """
    say = say or speaker()
    check_sweep(config, directory, shard)
    with claimed(directory, shared=shard is not None):
        check_manifest(config, directory)
        if config.sweep is not None and config.sweep.search is not None:
            return search(config, directory, workers=workers, say=say)
        return _run_all(config, directory, workers, shard, say)


def check_sweep(config: Config, directory: pathlib.Path, shard: Shard | None) -> int:
    """Refuses what cannot be run here; returns how many cells there are, or trials.

    Raises:
      CellError: If there is no sweep, a search is to be sharded, or the directory
        holds something else.
      ConfigError: If a run is no valid config.
    """
    if config.sweep is None:
        raise CellError(
            f"config {config.name!r} has no sweep: section. Add one, with grid, list "
            "or search."
        )
    if config.compare is not None:
        names = ", ".join(row.name for row in config.compare.rows)
        raise CellError(
            f"config {config.name!r} compares rows: choose the one to sweep with "
            f"--row, of {names}."
        )
    if shard is not None and config.sweep.search is not None:
        raise CellError(
            "a search chooses its trials from the results so far, so it is not known "
            "which there are. Run it without --shard and --launcher, or sweep a grid."
        )
    check_manifest(config, directory)
    if config.sweep.search is not None:
        return config.sweep.search.trials
    return len(cells_of(with_rows(config, combinations(config.sweep))))


def _run_all(
    config: Config,
    directory: pathlib.Path,
    workers: int | None,
    shard: Shard | None,
    say: Callable[[str], None],
) -> int:
    """The runs of a grid or a list."""
    assert config.sweep is not None
    runs = combinations(config.sweep)
    rows = with_rows(config, runs)
    cells = cells_of(rows)
    todo = open_cells(rows, directory, cells)
    _check_first(rows)
    manifest = write_manifest(config, rows, runs, directory)
    if shard is not None:
        cells = cells[shard.index :: shard.count]
        todo = [cell for cell in cells if cell in todo]
    failed = run_cells(
        rows, directory, todo, len(cells), workers, say, alone=shard is not None
    )
    if shard is None:
        measure_latency(rows, directory, say)
    write_table(manifest, directory)
    return failed


def _check_first(rows: Config) -> None:
    """Traces the first run: what is wrong there is likely wrong in all of them.

    The others are checked where they run, so that one does not keep the rest waiting.
    """
    assert rows.compare is not None
    first = row_config(rows, rows.compare.rows[0])
    check_schedule(first, load_task(first.task, first.data))
