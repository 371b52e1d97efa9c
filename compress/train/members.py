"""The runs of one program, as the directory of their checkpoints remembers them."""

import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from compress.config import Config, Number, numbers_of, program_hash
from compress.files import write_json
from compress.task import Task
from compress.train.checkpoints import CheckpointError
from compress.train.provenance import data_hash

MEMBERS = "group.json"


class Place(NamedTuple):
    """A run, and where it goes.

    Attributes:
      config: Its config; those of one program differ in their numbers, and in what is
        not trained.
      directory: Its own.
      seed: Of everything random.
    """

    config: Config
    directory: pathlib.Path
    seed: int


class Member(NamedTuple):
    """What a run of a program has of its own.

    Attributes:
      folder: The name of its directory.
      seed: Its seed.
      numbers: Those of its config, by path.
    """

    folder: str
    seed: int
    numbers: Mapping[str, Number]


def member_of(place: Place) -> Member:
    """The run that goes to a place."""
    return Member(place.directory.name, place.seed, numbers_of(place.config))


def members_of(
    group: pathlib.Path, config: Config, task: Task, wanted: Sequence[Member]
) -> list[Member]:
    """The runs that are trained: those of the group's checkpoints, if it has some.

    Args:
      group: The directory of the checkpoints.
      config: Of one of the runs.
      task: Of all.
      wanted: Those that are not finished.

    Raises:
      CheckpointError: If a run was begun with another config or data.
    """
    identity = f"program {program_hash(config)[:16]}, data {data_hash(task)[:16]}"
    path = group / MEMBERS
    if path.exists():
        known = json.loads(path.read_text())
        if known["identity"] != identity:
            raise _other(group, "", known["identity"], identity)
        runs = [Member(**run) for run in known["runs"]]
        by_folder = {run.folder: run for run in runs}
        for run in wanted:
            _check_same(group, by_folder.get(run.folder, run), run)
        if all(run.folder in by_folder for run in wanted):
            return runs
        # Of other runs: these here begin together.
        shutil.rmtree(group / "checkpoints", ignore_errors=True)
    runs = [run._asdict() for run in wanted]
    write_json(path, {"identity": identity, "runs": runs})
    return list(wanted)


def _check_same(group: pathlib.Path, known: Member, here: Member) -> None:
    if known == here:
        return
    then, now = (_described(run) for run in (known, here))
    differ = [key for key in now if then[key] != now[key]]
    there, own = (", ".join(f"{k}={x[k]}" for k in differ) for x in (then, now))
    raise _other(group, f", in {here.folder}", there, own)


def _described(run: Member) -> dict[str, Number]:
    return {"seed": run.seed, **run.numbers}


def _other(group: pathlib.Path, where: str, there: str, here: str) -> CheckpointError:
    return CheckpointError(
        f"{group}: made by another config or data{where}:\n"
        f"  there: {there}\n  here:  {here}\n"
        "Go back to those, or choose another --workdir."
    )
