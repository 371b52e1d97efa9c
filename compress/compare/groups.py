"""Cells that share work: rows with the same training, runs of one program."""

import itertools
import pathlib
import re
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import logging

from compress.compare.cell import Shipping, finished_result, ship_cell
from compress.compare.trial import measure_of
from compress.config import Config, Export, config_hash, program_hash
from compress.files import write_json
from compress.schedule import why_apart
from compress.task import Task, build_model, load_task
from compress.train import (
    Place,
    Trained,
    adopt,
    data_hash,
    teacher_of,
    train,
    train_many,
)

Outcome = dict[str, Any] | Exception
Run = tuple[str, int]  # the first row of a training, and a seed


class Group(NamedTuple):
    """Cells that are run by one worker; what they train is trained in one program.

    Attributes:
      rows: Names of rows; those that differ in how they are exported alone share a
        training, others differ in numbers that one program may have several of.
      seeds: Of each of them.
    """

    rows: tuple[str, ...]
    seeds: tuple[int, ...]


def cell_folder(row: str, seed: int) -> str:
    """The folder of a cell within the comparison's."""
    return f"{re.sub(r'[^A-Za-z0-9+.-]+', '_', row)}-seed{seed}"


def groups_of(
    rows: Mapping[str, Config], seeds: Sequence[int], apart: Mapping[str, str]
) -> list[Group]:
    """All cells of a comparison, in groups.

    Args:
      rows: The config of each row.
      seeds: Of every row.
      apart: By row, why its runs share no program; see `reasons_apart`.
    """
    groups = []
    for several in _by_program(rows, apart).values():
        first = several[0][0]
        size = 1 if first in apart else rows[first].vmap_seeds
        # Whole rows if there are fewer seeds than runs of a program.
        count = max(size // len(seeds), 1)
        for names in _parts(several, count):
            together = tuple(itertools.chain(*names))
            groups += [Group(together, tuple(part)) for part in _parts(seeds, size)]
    return groups


def _by_program(
    rows: Mapping[str, Config], apart: Mapping[str, str]
) -> dict[str, list[list[str]]]:
    """By program the trainings it may serve, each with the names of its rows."""
    found: dict[str, list[list[str]]] = {}
    for names in _by_training(rows).values():
        first = names[0]
        program = first if first in apart else _program(rows[first])
        found.setdefault(program, []).append(names)
    return found


def _by_training(rows: Mapping[str, Config]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, config in rows.items():
        found.setdefault(_training(config), []).append(name)
    return found


def _training(config: Config) -> str:
    """Equal for configs that train the same."""
    # What units cost may be counted in the grid that is exported.
    if any(stage.shrink is not None for stage in config.stages):
        return config_hash(config)
    same = {"export": Export(), "vmap_seeds": 1}
    return f"{config_hash(config.model_copy(update=same))}/{config.vmap_seeds}"


def _program(config: Config) -> str:
    """Equal for configs whose runs may be of one program, and speak and save as one."""
    often = (config.vmap_seeds, config.log_every, config.checkpoint_every)
    return f"{program_hash(config)}/{often}"


def _parts(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def reasons_apart(
    rows: Mapping[str, Config], seeds: Sequence[int], task: Task
) -> dict[str, str]:
    """By row, why its runs are trained one by one though `vmap_seeds` allows more."""
    found = {}
    for several in _by_program(rows, {}).values():
        first = rows[several[0][0]]
        if min(first.vmap_seeds, len(several) * len(seeds)) == 1:
            continue
        models = [
            build_model(task, first.task, first.model, jax.random.key(seed))
            for seed in seeds[:2]
        ]
        reason = why_apart(first, task, models)
        if reason is not None:
            found |= dict.fromkeys(itertools.chain(*several), reason)
    return found


def run_group(
    rows: Mapping[str, Config], cells: Sequence[tuple[str, int]], root: pathlib.Path
) -> Iterator[tuple[str, int, Outcome]]:
    """Runs cells of a group that are not finished; yields how each one went.

    Args:
      rows: By name, the configs of a `Group`.
      cells: Rows and seeds of the group.
      root: The directory of the comparison.
    """
    first = next(iter(rows.values()))
    task = load_task(first.task, first.data)
    data = data_hash(task)
    todo = [
        (row, seed)
        for row, seed in cells
        if finished_result(rows[row], root / cell_folder(row, seed), seed, data) is None
    ]
    same = {row: names for names in _by_training(rows).values() for row in names}
    # What a cell is trained as: the first row of the same training.
    runs = {(row, seed): (same[row][0], seed) for row, seed in todo}
    homes = {
        run: _home({row: rows[row] for row in same[run[0]]}, run[1], root)
        for run in runs.values()
    }
    if not homes:
        return
    try:
        trained = _trained(homes, task, root)
    except Exception as error:
        trained = dict.fromkeys(homes, error)
    shipping: dict[str, Shipping] = {}
    for cell, run in runs.items():
        place = Place(rows[cell[0]], root / cell_folder(*cell), cell[1])
        yield (
            *cell,
            _outcome(shipping, cell[0], place, homes[run], trained[run], task),
        )


def _home(rows: Mapping[str, Config], seed: int, root: pathlib.Path) -> Place:
    """Where a seed is trained: where it was begun, or in the first row's cell."""
    places = [Place(c, root / cell_folder(row, seed), seed) for row, c in rows.items()]
    begun = [p for p in places if (p.directory / "checkpoints").exists()]
    return (begun or places)[0]


def _trained(
    homes: Mapping[Run, Place], task: Task, root: pathlib.Path
) -> Mapping[Run, Trained | Exception]:
    first, *others = homes
    config, directory, seed = homes[first]
    teacher = teacher_of(config, task, root / "teachers", quiet=True)
    if others:
        group = root / ".groups" / _group_folder(homes)
        return train_many(homes, task, group, teacher=teacher)
    run = train(
        config,
        task,
        directory,
        seed=seed,
        teacher=teacher,
        measure=measure_of(config, task),
        resume=True,
        quiet=True,
    )
    return {first: run}


def _group_folder(runs: Collection[Run]) -> str:
    """The folder of the checkpoints of several runs."""
    (row, seed), *_, (last, end) = runs
    if row == last:
        return f"{cell_folder(row, seed)}-to-{end}"
    # Names of rows may be long.
    return f"{cell_folder(row, seed)}-and-{len(runs) - 1}-more"


def _outcome(
    shipping: dict[str, Shipping],
    row: str,
    place: Place,
    home: Place,
    trained: Trained | Exception,
    task: Task,
) -> Outcome:
    """The result of a cell, or what went wrong, which is written down."""
    config, directory, seed = place
    try:
        if isinstance(trained, Exception):
            raise trained
        if directory != home.directory:
            adopt(trained, home.directory, place, task)
        if row not in shipping:
            shipping[row] = Shipping(config, trained)
        return ship_cell(shipping[row], task, trained, directory, seed=seed)
    except Exception as error:
        write_error(directory, row, seed, error)
        return error


def write_error(directory: pathlib.Path, row: str, seed: int, error: Exception) -> None:
    """Keeps what went wrong in a cell; on the terminal, if it cannot be written."""
    said, whole = f"{type(error).__name__}: {error}", traceback.format_exception(error)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / "error.json", {"row": row, "seed": seed, "error": said})
        (directory / "traceback.txt").write_text("".join(whole))
    except OSError as problem:
        logging.error("%s: not written (%s): %s", directory, problem, "".join(whole))
