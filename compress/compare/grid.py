"""A comparison: rows times seeds, resumable, then latency and the report."""

import contextlib
import itertools
import json
import pathlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import jax
from rich.console import Console

from compress.compare.cell import RESULT, CellError, finished_result
from compress.compare.declared import declare, late_seeds
from compress.compare.groups import (
    Group,
    Outcome,
    cell_folder,
    groups_of,
    reasons_apart,
    run_group,
    write_error,
)
from compress.compare.latency import LATENCY, measure_rows
from compress.compare.pool import WorkerDied, run_jobs
from compress.compare.sensitivity import SENSITIVITY, measure_sensitivity
from compress.compare.teachers import TeacherError, train_teachers
from compress.config import (
    Config,
    Row,
    factorial_design,
    factors_of,
    parse_config,
    row_config,
)
from compress.files import write_json
from compress.machine import num_usable_cpus
from compress.report import score_text
from compress.task import Task, load_task
from compress.train import RunError, check_schedule, data_hash, versions
from compress.train.directory import InUseError, claimed

Cell = tuple[str, int]  # row and seed


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
    say = say or speaker()
    cells, rows = cells_of(config), _configs(config)
    todo = open_cells(config, directory, cells)
    with claimed(directory):
        for name, task in _tasks(rows).items():
            check_schedule(rows[name], task)
        failed = run_cells(config, directory, todo, len(cells), workers, say)
        measure_latency(config, directory, say)
    return failed


def speaker() -> Callable[[str], None]:
    """Shows lines of progress on the terminal."""
    return Console(stderr=True, highlight=False, soft_wrap=True).print


def open_cells(
    config: Config, directory: pathlib.Path, cells: Sequence[Cell]
) -> list[Cell]:
    """Those that are not finished yet.

    Raises:
      CellError: If the directory holds cells of another config.
    """
    rows = _configs(config)
    data = {name: data_hash(task) for name, task in _tasks(rows).items()}
    return [
        (row, seed)
        for row, seed in cells
        if finished_result(
            rows[row], directory / cell_folder(row, seed), seed, data[row]
        )
        is None
    ]


def _configs(config: Config) -> dict[str, Config]:
    return {row.name: row_config(config, row) for row in _rows(config)}


def _tasks(rows: Mapping[str, Config]) -> dict[str, Task]:
    """By row its task; rows with the same data share one."""
    loaded: dict[str, Task] = {}
    for own in rows.values():
        if _task_key(own) not in loaded:
            loaded[_task_key(own)] = load_task(own.task, own.data)
    return {name: loaded[_task_key(own)] for name, own in rows.items()}


def _task_key(config: Config) -> str:
    return f"{config.task} {sorted(config.data.items())}"


def run_cells(
    config: Config,
    directory: pathlib.Path,
    cells: Sequence[Cell],
    total: int,
    workers: int | None,
    say: Callable[[str], None],
    *,
    alone: bool = False,
) -> int:
    """Trains the teachers of some cells, and runs them.

    Args:
      config: With `compare`, whose rows are all there are in the directory.
      directory: Of the comparison, claimed by the caller.
      cells: What is to be run: row and seed.
      total: How many there are with those that are finished, to count them.
      workers: Processes at a time; by default one per core.
      say: Shows a line of progress.
      alone: Each cell is trained by itself, since others run what it could share with.

    Returns:
      How many cells failed.
    """
    declared = declare(config, directory)
    _write_settings(config, directory, declared["contrasts"], [])
    rows = _configs(config)
    task = load_task(config.task, config.data)
    apart = {} if alone else reasons_apart(rows, config.seeds, task)
    taught, untaught = train_teachers(config, directory, say)
    notes = [*late_seeds(config, declared["seeds"]), *taught]
    for row, why in apart.items():
        notes.append(f"{row}: runs were trained one by one, since {why}.")
    _write_settings(config, directory, declared["contrasts"], notes)
    groups = groups_of(rows, config.seeds, apart)
    if alone:
        groups = [Group((row,), (seed,)) for row, seed in cells]
    work = _work(groups, cells)
    return _run(rows, directory, work, untaught, total, workers, say)


def _work(
    groups: Sequence[Group], cells: Sequence[Cell]
) -> list[tuple[Group, list[Cell]]]:
    """The groups in which there is something to run, each with that."""
    wanted = set(cells)
    parts = [(g, [c for c in itertools.product(*g) if c in wanted]) for g in groups]
    return [(group, part) for group, part in parts if part]


def measure_latency(
    config: Config, directory: pathlib.Path, say: Callable[[str], None]
) -> None:
    """Times an artifact of each row, all in one worker process.

    What cannot be measured is said, and written down for the report.
    """
    say("measuring the latency of all artifacts, side by side, on one core")
    for name in (LATENCY, SENSITIVITY):  # of earlier artifacts
        (directory / name).unlink(missing_ok=True)
    seeds: dict[str, int] = {}
    for row, seed in cells_of(config):
        if (directory / cell_folder(row, seed) / RESULT).exists():
            seeds.setdefault(row, seed)
    job = (_dumped(config), str(directory), seeds)
    cache, path = directory / ".programs", directory / "compare.json"
    for _, notes in run_jobs(_measure_job, [job], workers=1, cache=cache):
        if isinstance(notes, WorkerDied):
            notes = [f"Latency could not be measured: {notes}"]
        for note in notes:
            say(note)
        settings = json.loads(path.read_text())
        write_json(path, {**settings, "unmeasured": notes})


def _rows(config: Config) -> tuple[Row, ...]:
    assert config.compare is not None
    return config.compare.rows


def cells_of(config: Config) -> list[Cell]:
    """Every row with every seed.

    Raises:
      CellError: If two would have the same folder.
    """
    cells = [(row.name, seed) for row in _rows(config) for seed in config.seeds]
    if len({cell_folder(*cell) for cell in cells}) < len(cells):
        raise CellError(
            "two row names give the same folder name; letters, digits and +.- count."
        )
    return cells


def _write_settings(
    config: Config,
    directory: pathlib.Path,
    declared_after: list[int],
    notes: list[str],
) -> None:
    assert config.compare is not None
    settings = {
        "name": config.name,
        "rows": [row.name for row in _rows(config)],
        "reference": config.compare.reference,
        "contrasts": [c.model_dump() for c in config.compare.contrasts],
        "declared_after": declared_after,
        "factors": list(factors_of(config.compare)),
        "design": factorial_design(config.compare),
        "seeds": list(config.seeds),
        "versions": versions(),
        "notes": notes,
    }
    write_json(directory / "compare.json", settings)
    write_json(directory / "config.json", config.model_dump(mode="json"))


def _run(
    rows: Mapping[str, Config],
    directory: pathlib.Path,
    work: Sequence[tuple[Group, list[Cell]]],
    untaught: Mapping[str, TeacherError],
    total: int,
    workers: int | None,
    say: Callable[[str], None],
) -> int:
    done, failed = total - sum(len(cells) for _, cells in work), 0
    if done:
        say(f"{done} of {total} cells are finished already")
    dumped = {name: _dumped(config) for name, config in rows.items()}
    jobs = [
        ({row: dumped[row] for row in group.rows}, cells, str(directory))
        for group, cells in work
        if group.rows[0] not in untaught  # the rows of a group learn from the same one
    ]
    known = [
        _failed(untaught[row], (row, seed), directory)
        for _, cells in work
        for row, seed in cells
        if row in untaught
    ]
    on_cpu = jax.default_backend() == "cpu"
    # An accelerator is used by one process at a time; cores are shared out.
    count = workers or (num_usable_cpus() or 1 if on_cpu else 1)
    cache = directory / ".programs"
    running = run_jobs(_group_job, jobs, workers=count, cache=cache)
    for job, lines in itertools.chain([((), known)], running):
        if isinstance(lines, WorkerDied):
            lines = list(_left_by(lines, job[1], directory))
        for row, seed, line in lines:
            done, failed = done + 1, failed + line.startswith("failed")
            say(f"[{done}/{total}] {row}, seed {seed}: {line}")
    return failed


def _dumped(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _group_job(
    dumped: dict[str, dict[str, Any]], cells: Sequence[Cell], directory: str
) -> list[tuple[str, int, str]]:
    """Runs some cells of a group in a worker; returns a line for each."""
    configs = {row: parse_config(config) for row, config in dumped.items()}
    root = pathlib.Path(directory)
    try:
        with contextlib.ExitStack() as held:
            for cell in cells:
                held.enter_context(claimed(root / ".locks" / cell_folder(*cell)))
            return [
                (row, seed, _line(outcome, root / cell_folder(row, seed)))
                for row, seed, outcome in run_group(configs, cells, root)
            ]
    except InUseError:
        return [(row, seed, "another process is running it") for row, seed in cells]
    except RunError as error:  # the disk is full: they cannot be claimed
        return [_failed(error, cell, root) for cell in cells]


def _left_by(
    death: WorkerDied, cells: Sequence[Cell], root: pathlib.Path
) -> Iterator[tuple[str, int, str]]:
    """How the cells of a group stand whose worker died."""
    for row, seed in cells:
        if (root / cell_folder(row, seed) / RESULT).exists():
            yield row, seed, "finished before its worker died"
        else:
            yield _failed(death, (row, seed), root)


def _failed(error: Exception, cell: Cell, root: pathlib.Path) -> tuple[str, int, str]:
    """Writes down why a cell failed."""
    folder = root / cell_folder(*cell)
    write_error(folder, *cell, error)
    return *cell, _line(error, folder)


def _line(outcome: Outcome, folder: pathlib.Path) -> str:
    """How a cell went."""
    if isinstance(outcome, Exception):
        return f"failed: {outcome} (see {folder / 'traceback.txt'})"
    return (
        f"{score_text(outcome['score'], outcome['metric'])}, "
        f"{outcome['sizes']['file']:,} bytes, {outcome['train_seconds']:.1f} s"
    )


def _measure_job(
    dumped: dict[str, Any], directory: str, seeds: dict[str, int]
) -> list[str]:
    """Measures one cell of each row; returns what could not be, and why."""
    config, root = parse_config(dumped), pathlib.Path(directory)
    notes: list[str] = []
    with _noting(notes, "Latency"):
        notes += measure_rows(config, root, seeds)
    with _noting(notes, "What it costs to compress a parameter alone"):
        measure_sensitivity(config, root, seeds)
    return notes


@contextlib.contextmanager
def _noting(notes: list[str], what: str) -> Generator[None]:
    """Keeps what goes wrong as a sentence."""
    try:
        yield
    except Exception as error:  # the report of what was trained is written all the same
        notes.append(f"{what} could not be measured: {type(error).__name__}: {error}")
