"""Runs a locked comparison again, and says of every number whether it is the same."""

import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from compress.compare.checks import MISSING, Check, Reproduction, check_cell
from compress.compare.grid import compare
from compress.compare.lock import Lock, LockError, Origin, numbers_of
from compress.config import (
    Config,
    ConfigError,
    config_hash,
    nearest,
    parse_config,
    row_config,
)
from compress.files import write_json
from compress.machine import describe_machine
from compress.report import load_compare
from compress.task import Task, load_task
from compress.train import data_hash, git_commit, versions

RESULT = "reproduction.json"

# What says where a process ran, and nothing about its numbers.
# Workers of a comparison have a core each, whoever started them.
_NOT_THE_MACHINE = {"system", "python", "jax", "num_cpus", "num_usable_cpus"}


def reproduce(
    lock: Lock,
    directory: pathlib.Path,
    *,
    rows: Sequence[str] = (),
    seeds: Sequence[int] = (),
    workers: int | None = None,
    say: Callable[[str], None],
) -> Reproduction:
    """Runs a locked comparison, or a part of it, in a directory of its own.

    Args:
      lock: From `read_lock`.
      directory: Where to run; an unfinished reproduction goes on.
      rows: Those to run; by default all that the lock has numbers of.
      seeds: Likewise.
      workers: As for `compare`.
      say: Shows a line of progress.

    Raises:
      LockError: If the data or the task are others, the config is not one of this
        version, a row or seed is not in the lock, or the directory is in use.
    """
    whole = _resolved(lock)
    part = _part(whole, lock, rows, seeds)
    task = load_task(part.config.task, part.config.data)
    _check_task(lock, task, part.config.task)
    here = _here(part.config.task)
    before = [_flat(origin) for origin in lock.origins]
    changed = (*_changes(before, here), *_other_configs(part.config, lock))
    for line in changed:
        say(f"not as it was: {line}")
    _claim(directory, lock, here)
    compare(part.config, directory, workers=workers, say=say)
    result = Reproduction(changed, tuple(_checks(lock, part.cells, directory)))
    write_json(directory / RESULT, _as_json(result))
    return result


class _Part(NamedTuple):
    """What is run again: a config, and the locked cells it has."""

    config: Config
    cells: tuple[tuple[str, int], ...]


def _resolved(lock: Lock) -> Config:
    try:
        config = parse_config(lock.config)
    except ConfigError as error:
        made_with = lock.origins[0] if lock.origins else None
        commit = made_with and made_with.git_commit
        raise LockError(
            f"lock of {lock.name!r}: its config is none of this version of "
            f"jax-compress. {error} Use the commit it was made with: {commit}."
        ) from None
    if config.compare is None:
        raise LockError(f"lock of {lock.name!r}: its config compares no rows.")
    return config


def _part(
    config: Config, lock: Lock, rows: Sequence[str], seeds: Sequence[int]
) -> _Part:
    """The config with the rows and seeds to run."""
    rows = rows or list(lock.cells)
    known = sorted({int(seed) for by_seed in lock.cells.values() for seed in by_seed})
    seeds = seeds or [seed for seed in lock.seeds if seed in known]
    _check_known("--rows", rows, list(lock.cells))
    _check_known("--seeds", list(map(str, seeds)), list(map(str, known)))
    cells = [(r, s) for r in rows for s in seeds if str(s) in lock.cells[r]]
    if not cells:
        raise LockError(
            f"lock of {lock.name!r}: has no numbers of rows {', '.join(rows)} with "
            f"seeds {', '.join(map(str, seeds))}: those runs had failed."
        )
    dumped = config.model_dump(mode="json")
    chosen = dumped["compare"]
    every = chosen["rows"]
    chosen["rows"] = [row for row in every if row["name"] in rows]
    chosen["orders"] = None  # it would add rows; those it added are listed
    names = [row["name"] for row in chosen["rows"]]
    if len(names) < len(every):
        # The numbers of a cell do not depend on what it is compared with.
        chosen["contrasts"] = []
        chosen["reference"] = (
            chosen["reference"] if chosen["reference"] in names else names[0]
        )
    return _Part(parse_config({**dumped, "seeds": list(seeds)}), tuple(cells))


def _check_known(flag: str, asked: Sequence[str], known: Sequence[str]) -> None:
    for name in asked:
        if name not in known:
            near = nearest(name, known, cutoff=0.3) or known
            raise LockError(
                f"{flag}: the lock has no numbers of {name!r}. The nearest: "
                f"{', '.join(near)}."
            )


def _check_task(lock: Lock, task: Task, name: str) -> None:
    here = data_hash(task)
    if here != lock.data_hash:
        raise LockError(
            f"lock of {lock.name!r}: was made with other data: {lock.data_hash[:16]}, "
            f"here {name} gives {here[:16]}. Get the same data (--data_dir says "
            "where); numbers of other data cannot be compared."
        )
    metric = task.judge.described()
    if metric != dict(lock.metric):
        raise LockError(
            f"lock of {lock.name!r}: was judged by {dict(lock.metric)}, the task "
            f"{name} is now by {metric}. Use the task it was made with."
        )


def _changes(
    before: Sequence[Mapping[str, Any]], here: Mapping[str, Any]
) -> Iterator[str]:
    """What numbers were made with and is different here."""
    for key, now in here.items():
        others = [then.get(key) for then in before if then.get(key) != now]
        if others:
            told = " and ".join(dict.fromkeys(map(str, others)))
            yield f"{key}: {told} then, {now} here"


def _here(task: str) -> dict[str, Any]:
    commit = git_commit(task)
    return _flat(
        Origin(versions=versions(), machine=describe_machine(), git_commit=commit)
    )


def _flat(origin: Origin) -> dict[str, Any]:
    machine = {k: v for k, v in origin.machine.items() if k not in _NOT_THE_MACHINE}
    return {**origin.versions, **machine, "git commit": origin.git_commit}


def _other_configs(config: Config, lock: Lock) -> Iterator[str]:
    """Rows whose config means something else to this version, by a new default."""
    assert config.compare is not None
    for row in config.compare.rows:
        locked = {n.config_hash for n in lock.cells.get(row.name, {}).values()}
        here = config_hash(row_config(config, row))
        if locked - {here}:
            yield f"config of {row.name}: {locked.pop()[:12]} then, {here[:12]} here"


def _claim(directory: pathlib.Path, lock: Lock, here: Mapping[str, Any]) -> None:
    """Numbers made for another lock, or by other code, would be taken for new ones."""
    marker = directory / "reproduces.json"
    content = {"lock": lock.content_hash, "made_with": here}
    if (directory / "compare.json").exists():
        known = json.loads(marker.read_text()) if marker.exists() else {}
        remedy = "Choose another --workdir, or remove it."
        if known.get("lock") != lock.content_hash:
            raise LockError(
                f"{directory}: holds a comparison already, which is no reproduction of "
                f"this lock of {lock.name!r}. {remedy}"
            )
        others = list(_changes([known["made_with"]], here))
        if others:
            raise LockError(
                f"{directory}: holds a reproduction that was not made as it would be "
                f"now: {'; '.join(others)}. {remedy}"
            )
    directory.mkdir(parents=True, exist_ok=True)
    write_json(marker, content)


def _checks(
    lock: Lock, cells: Sequence[tuple[str, int]], directory: pathlib.Path
) -> Iterator[Check]:
    comparison = load_compare(directory)
    found = {(cell.row, cell.seed): cell for cell in comparison.cells}
    for row, seed in cells:
        then = lock.cells[row][str(seed)]
        if (row, seed) not in found:
            yield Check(row, seed, "score", then.score, None, MISSING)
            continue
        yield from check_cell(row, seed, then, numbers_of(found[row, seed], directory))


def _as_json(result: Reproduction) -> dict[str, Any]:
    return {
        "format_version": 1,
        "succeeded": result.succeeded,
        "changed": list(result.changed),
        "checks": [check._asdict() for check in result.checks],
    }
