"""Goes on where a run was left: its checkpoints, on whatever devices there are now."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from absl import logging

from compress.config import Config
from compress.schedule import Placement, TrainState, place
from compress.task import Task
from compress.train.boundaries import read_boundaries
from compress.train.checkpoints import CheckpointError, Checkpoints, DamagedError
from compress.train.directory import run_identity
from compress.train.metrics import EVALUATED, read_metrics
from compress.train.phases import Entered, Job, replay, run_key, start
from compress.train.preservation import Score


def open_checkpoints(
    config: Config,
    task: Task,
    directory: pathlib.Path,
    seed: int,
    read_only: bool = False,
) -> Checkpoints:
    """The checkpoints of a run, which must be of this config, seed and data."""
    return Checkpoints(
        directory / "checkpoints",
        keep=config.keep_checkpoints,
        keep_best=config.keep_best,
        identity=run_identity(config, task, seed),
        read_only=read_only,
    )


def score_of(task: Task, stage: str, evaluated: float) -> Score:
    """What an evaluation says of a checkpoint; more is better."""
    return Score(stage, evaluated if task.judge.higher_is_better else -evaluated)


def remember_scores(
    task: Task, directory: pathlib.Path, checkpoints: Checkpoints
) -> None:
    """How the checkpoints of earlier processes did, for the best to be kept."""
    for line in read_metrics(directory / "metrics.jsonl"):
        if EVALUATED in line:
            score = score_of(task, line["stage"], line[EVALUATED])
            checkpoints.scored(line["step"], score)


class Found(NamedTuple):
    """What the newest good checkpoint holds.

    Attributes:
      entered: The phase it is of.
      placement: Of that phase.
      state: Where it belongs.
      damaged: The steps of newer ones, which cannot be used.
    """

    entered: Entered
    placement: Placement
    state: TrainState
    damaged: tuple[int, ...]


def restored(job: Job, directory: pathlib.Path, checkpoints: Checkpoints) -> Found:
    """The newest checkpoint that is whole, on the devices there are now.

    Raises:
      CheckpointError: If none is.
    """
    boundaries = read_boundaries(directory)

    def at(step: int) -> tuple[Entered, Placement, TrainState]:
        entered = replay(job, boundaries, step)
        placement = placed(job, entered)
        like = placement.target(start(job, entered, run_key(job)))
        return entered, placement, checkpoints.load(step, like)

    found, damaged = newest_good(checkpoints, at)
    return Found(*found, damaged)


def newest_good(
    checkpoints: Checkpoints, load: Callable[[int], Any]
) -> tuple[Any, tuple[int, ...]]:
    """What `load(step)` gives of the newest step that is whole, and the damaged steps.

    Raises:
      CheckpointError: If none is.
    """
    damaged: list[int] = []
    steps = checkpoints.steps
    for step, older in zip(steps, [*steps[1:], None]):
        try:
            return load(step), tuple(damaged)
        except DamagedError as error:
            damaged.append(step)
            instead = f"Going back to step {older}." if older is not None else ""
            logging.warning("damaged checkpoint: %s. %s", error, instead)
            last = error
    raise CheckpointError(
        f"{checkpoints.directory}: none of the checkpoints can be used: they are "
        f"damaged, or of another version of this model. The oldest: {last}. Choose "
        "another --workdir and start again."
    )


def placed(job: Job, entered: Entered) -> Placement:
    """Where the arrays of a phase live."""
    return place(job.config, entered.model.params, first=entered.phase.index == 0)
