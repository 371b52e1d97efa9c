"""A comparison: rows times seeds, resumable, then latency and the report."""

import itertools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from rich.console import Console

from compress.compare.cell import CellError, finished_result
from compress.compare.groups import (
    Group,
    Outcome,
    cell_folder,
    groups_of,
    reasons_apart,
    run_group,
)
from compress.compare.latency import measure_rows
from compress.compare.pool import run_jobs
from compress.compare.sensitivity import measure_sensitivity
from compress.compare.teachers import train_teachers
from compress.config import (
    Config,
    Row,
    factorial_design,
    factors_of,
    parse_config,
    row_config,
)
from compress.files import write_json
from compress.machine import describe_machine, num_usable_cpus
from compress.report import score_text
from compress.task import load_task
from compress.train import check_schedule, data_hash, versions
from compress.train.directory import claimed


def compare(
    config: Config,
    directory: pathlib.Path,
    *,
    workers: int | None = None,
    say: Callable[[str], None] | None = None,
) -> int:
    """Runs every cell of a comparison that is not finished yet, and measures latency.

    Args:
      config: With `compare`.
      directory: Of the comparison; a folder per cell.
      workers: Processes at a time; by default one per core.
      say: Shows a line of progress.

    Returns:
      How many cells failed; each has an `error.json`.

    Raises:
      CellError: If the directory holds cells of another config.
    """
    if config.compare is None:
        raise CellError(
            f"config {config.name!r} has no compare: section. Use `run` for a single "
            "model, or add rows to compare."
        )
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    say = say or console.print
    cells = _cells(config, directory)
    task = load_task(config.task, config.data)
    data = data_hash(task)
    is_open = [not _is_finished(config, directory, data, *cell) for cell in cells]
    with claimed(directory):
        _write_settings(config, directory, [])
        rows = {row.name: row_config(config, row) for row in _rows(config)}
        for each in rows.values():
            check_schedule(each, task)
        apart = reasons_apart(rows, config.seeds, task)
        notes = train_teachers(config, directory, say)
        for row, why in apart.items():
            notes.append(f"{row}: seeds were trained one by one, since {why}.")
        _write_settings(config, directory, notes)
        todo = {cell for cell, wanted in zip(cells, is_open, strict=True) if wanted}
        groups = [
            group
            for group in groups_of(rows, config.seeds, apart)
            if todo.intersection(itertools.product(*group))
        ]
        done = len(cells) - len(todo)
        failed = _run(config, directory, groups, len(cells), done, workers, say)
        _measure(config, directory, say)
    return failed


def _measure(
    config: Config, directory: pathlib.Path, say: Callable[[str], None]
) -> None:
    say("measuring the latency of all artifacts, side by side, on one core")
    first = {row.name: cell_folder(row.name, config.seeds[0]) for row in _rows(config)}
    job = (_dumped(config), str(directory), first)
    for _ in run_jobs(_measure_job, [job], workers=1, cache=directory / ".programs"):
        pass


def _rows(config: Config) -> tuple[Row, ...]:
    assert config.compare is not None
    return config.compare.rows


def _cells(config: Config, directory: pathlib.Path) -> list[tuple[str, int]]:
    cells = [(row.name, seed) for row in _rows(config) for seed in config.seeds]
    if len({cell_folder(*cell) for cell in cells}) < len(cells):
        raise CellError(
            "two row names give the same folder name; letters, digits and +.- count."
        )
    return cells


def _config_of(config: Config, row_name: str) -> Config:
    row = next(row for row in _rows(config) if row.name == row_name)
    return row_config(config, row)


def _is_finished(
    config: Config, directory: pathlib.Path, data: str, row: str, seed: int
) -> bool:
    folder = directory / cell_folder(row, seed)
    return finished_result(_config_of(config, row), folder, seed, data) is not None


def _write_settings(config: Config, directory: pathlib.Path, notes: list[str]) -> None:
    assert config.compare is not None
    settings = {
        "name": config.name,
        "rows": [row.name for row in _rows(config)],
        "reference": config.compare.reference,
        "contrasts": [c.model_dump() for c in config.compare.contrasts],
        "factors": list(factors_of(config.compare)),
        "design": factorial_design(config.compare),
        "seeds": list(config.seeds),
        "machine": describe_machine(),
        "versions": versions(),
        "notes": notes,
    }
    write_json(directory / "compare.json", settings)
    write_json(directory / "config.json", config.model_dump(mode="json"))


def _run(
    config: Config,
    directory: pathlib.Path,
    groups: list[Group],
    total: int,
    done: int,
    workers: int | None,
    say: Callable[[str], None],
) -> int:
    failed = 0
    if done:
        say(f"{done} of {total} cells are finished already")
    jobs = [(_dumped(config), *group, str(directory)) for group in groups]
    on_cpu = jax.default_backend() == "cpu"
    # An accelerator is used by one process at a time; cores are shared out.
    count = workers or (num_usable_cpus() or 1 if on_cpu else 1)
    for _, lines in run_jobs(
        _group_job, jobs, workers=count, cache=directory / ".programs"
    ):
        for row, seed, line in lines:
            done, failed = done + 1, failed + line.startswith("failed")
            say(f"[{done}/{total}] {row}, seed {seed}: {line}")
    return failed


def _dumped(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _group_job(
    dumped: dict[str, Any],
    rows: tuple[str, ...],
    seeds: tuple[int, ...],
    directory: str,
) -> list[tuple[str, int, str]]:
    """Runs a group in a worker; returns a line for each cell that was not finished."""
    config, root = parse_config(dumped), pathlib.Path(directory)
    configs = {row: _config_of(config, row) for row in rows}
    return [
        (row, seed, _line(outcome, root / cell_folder(row, seed)))
        for row, seed, outcome in run_group(configs, seeds, root)
    ]


def _line(outcome: Outcome, folder: pathlib.Path) -> str:
    """How a cell went."""
    if isinstance(outcome, Exception):
        return f"failed: {outcome} (see {folder / 'traceback.txt'})"
    return (
        f"{score_text(outcome['score'], outcome['metric'])}, "
        f"{outcome['sizes']['file']:,} bytes, {outcome['train_seconds']:.1f} s"
    )


def _measure_job(dumped: dict[str, Any], directory: str, first: dict[str, str]) -> None:
    config = parse_config(dumped)
    measure_rows(config, directory, first)
    measure_sensitivity(config, pathlib.Path(directory), first)
