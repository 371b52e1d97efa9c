"""A comparison: rows times seeds, resumable, then latency and the report."""

import pathlib
import re
import traceback
from collections.abc import Callable
from typing import Any

import jax
from rich.console import Console

from compress.compare.cell import CellError, finished_result, run_cell
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
    task = load_task(config.task)
    data = data_hash(task)
    is_open = [not _is_finished(config, directory, data, *cell) for cell in cells]
    with claimed(directory):
        _write_settings(config, directory, [])
        for row in _rows(config):
            check_schedule(row_config(config, row), task)
        _write_settings(config, directory, train_teachers(config, directory, say))
        todo = [cell for cell, wanted in zip(cells, is_open, strict=True) if wanted]
        failed = _run(config, directory, todo, len(cells), workers, say)
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


def cell_folder(row: str, seed: int) -> str:
    """The folder of a cell within the comparison's."""
    return f"{re.sub(r'[^A-Za-z0-9+.-]+', '_', row)}-seed{seed}"


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
    cells: list[tuple[str, int]],
    total: int,
    workers: int | None,
    say: Callable[[str], None],
) -> int:
    done, failed = total - len(cells), 0
    if done:
        say(f"{done} of {total} cells are finished already")
    jobs = [(_dumped(config), row, seed, str(directory)) for row, seed in cells]
    on_cpu = jax.default_backend() == "cpu"
    # An accelerator is used by one process at a time; cores are shared out.
    count = workers or (num_usable_cpus() or 1 if on_cpu else 1)
    for job, line in run_jobs(
        _cell_job, jobs, workers=count, cache=directory / ".programs"
    ):
        done, failed = done + 1, failed + line.startswith("failed")
        say(f"[{done}/{total}] {job[1]}, seed {job[2]}: {line}")
    return failed


def _dumped(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _cell_job(dumped: dict[str, Any], row: str, seed: int, directory: str) -> str:
    """Runs one cell in a worker; returns a line that says how it went."""
    root = pathlib.Path(directory)
    folder = root / cell_folder(row, seed)
    try:
        result = run_cell(
            _config_of(parse_config(dumped), row),
            folder,
            seed=seed,
            teachers=root / "teachers",
            resume=True,
            quiet=True,
        )
    except Exception as error:
        folder.mkdir(parents=True, exist_ok=True)
        details = {
            "row": row,
            "seed": seed,
            "error": f"{type(error).__name__}: {error}",
        }
        write_json(folder / "error.json", details)
        (folder / "traceback.txt").write_text(traceback.format_exc())
        return f"failed: {error} (see {folder / 'traceback.txt'})"
    sizes = result["sizes"]
    return (
        f"{score_text(result['score'], result['metric'])}, {sizes['file']:,} bytes, "
        f"{result['train_seconds']:.1f} s"
    )


def _measure_job(dumped: dict[str, Any], directory: str, first: dict[str, str]) -> None:
    config = parse_config(dumped)
    measure_rows(config, directory, first)
    measure_sensitivity(config, pathlib.Path(directory), first)
