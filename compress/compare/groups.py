"""Cells that share work: rows with the same training, seeds of one program."""

import pathlib
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import logging

from compress.compare.cell import Shipping, finished_result, ship_cell
from compress.compare.trial import measure_of
from compress.config import Config, Export, config_hash
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


class Group(NamedTuple):
    """Cells that are run by one worker, one training for all of them.

    Attributes:
      rows: Names of rows that differ in how they are exported alone.
      seeds: Trained in one program, if there are several.
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
      apart: By row, why its seeds do not share a program; see `reasons_apart`.
    """
    by_training: dict[str, list[str]] = {}
    for name, config in rows.items():
        by_training.setdefault(_training(config), []).append(name)
    groups = []
    for names in by_training.values():
        size = 1 if names[0] in apart else rows[names[0]].vmap_seeds
        groups += [
            Group(tuple(names), tuple(seeds[start : start + size]))
            for start in range(0, len(seeds), size)
        ]
    return groups


def _training(config: Config) -> str:
    """Equal for configs that train the same."""
    # What units cost may be counted in the grid that is exported.
    if any(stage.shrink is not None for stage in config.stages):
        return config_hash(config)
    same = {"export": Export(), "vmap_seeds": 1}
    return f"{config_hash(config.model_copy(update=same))}/{config.vmap_seeds}"


def reasons_apart(
    rows: Mapping[str, Config], seeds: Sequence[int], task: Task
) -> dict[str, str]:
    """By row, why its seeds are trained one by one though `vmap_seeds` allows more."""
    found = {}
    for name, config in rows.items():
        if min(config.vmap_seeds, len(seeds)) == 1:
            continue
        models = [
            build_model(task, config.task, config.model, jax.random.key(seed))
            for seed in seeds[:2]
        ]
        reason = why_apart(config, task, models)
        if reason is not None:
            found[name] = reason
    return found


def run_group(
    rows: Mapping[str, Config], cells: Sequence[tuple[str, int]], root: pathlib.Path
) -> Iterator[tuple[str, int, Outcome]]:
    """Runs cells of a group that are not finished; yields how each one went.

    Args:
      rows: By name, the configs of a `Group`; what one of them trained serves all.
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
    wanted = list(dict.fromkeys(seed for _, seed in todo))
    if not wanted:
        return
    homes = {seed: _home(rows, seed, root) for seed in wanted}
    try:
        trained = _trained(rows, homes, task, root)
    except Exception as error:
        trained = dict.fromkeys(wanted, error)
    shipping: dict[str, Shipping] = {}
    for row, seed in todo:
        place = Place(rows[row], root / cell_folder(row, seed))
        yield (
            row,
            seed,
            _outcome(shipping, row, place, homes[seed], trained[seed], task, seed),
        )


def _home(rows: Mapping[str, Config], seed: int, root: pathlib.Path) -> Place:
    """Where a seed is trained: where it was begun, or in the first row's cell."""
    places = [Place(c, root / cell_folder(row, seed)) for row, c in rows.items()]
    begun = [p for p in places if (p.directory / "checkpoints").exists()]
    return (begun or places)[0]


def _trained(
    rows: Mapping[str, Config],
    homes: Mapping[int, Place],
    task: Task,
    root: pathlib.Path,
) -> Mapping[int, Trained | Exception]:
    teacher = teacher_of(next(iter(rows.values())), task, root / "teachers", quiet=True)
    seeds = list(homes)
    if len(seeds) > 1:
        folder = f"{cell_folder(next(iter(rows)), seeds[0])}-to-{seeds[-1]}"
        group = root / ".groups" / folder
        return train_many(homes, task, group, teacher=teacher)
    (seed, (config, directory)), *_ = homes.items()
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
    return {seed: run}


def _outcome(
    shipping: dict[str, Shipping],
    row: str,
    place: Place,
    home: Place,
    trained: Trained | Exception,
    task: Task,
    seed: int,
) -> Outcome:
    """The result of a cell, or what went wrong, which is written down."""
    config, directory = place
    try:
        if isinstance(trained, Exception):
            raise trained
        if directory != home.directory:
            adopt(trained, home.directory, place, task, seed)
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
