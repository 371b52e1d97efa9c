"""The teachers of a comparison, trained before its cells."""

import contextlib
import pathlib
from collections.abc import Callable

import jax

from compress.config import Config, config_hash, row_config
from compress.report import score_text
from compress.task import Task, load_task
from compress.train import evaluate, teacher_of
from compress.train.directory import InUseError, claimed
from compress.train.teacher import teacher_config


class TeacherError(RuntimeError):
    """A cell whose teacher could not be trained."""


def train_teachers(
    config: Config, directory: pathlib.Path, say: Callable[[str], None]
) -> tuple[list[str], dict[str, TeacherError]]:
    """Trains each teacher once, before two cells could train the same one.

    Returns:
      A sentence about each, for the report; and by row, why it has no teacher.
    """
    assert config.compare is not None
    own = [row_config(config, row) for row in config.compare.rows]
    learning = [row for row in own if any(stage.distill for stage in row.stages)]
    identities = {row.name: config_hash(teacher_config(row)) for row in learning}
    distinct = {identities[row.name]: row for row in learning}
    task = load_task(config.task, config.data)
    notes = dict.fromkeys(distinct, "")
    failed: dict[str, TeacherError] = {}
    # Another process may be at one of them: then it is waited for, but last.
    for wait in (False, True):
        for identity in [name for name, note in notes.items() if not note]:
            lock = directory / f".locks/teacher-{identity[:12]}"
            later = contextlib.suppress(*(() if wait else (InUseError,)))
            with later, claimed(lock, wait=wait):
                try:
                    notes[identity] = _train(distinct[identity], task, directory, say)
                except TeacherError as error:
                    say(f"failed: {error}")
                    notes[identity], failed[identity] = str(error), error
    rows = {str(r): failed[name] for r, name in identities.items() if name in failed}
    return list(notes.values()), rows


def _train(
    config: Config, task: Task, directory: pathlib.Path, say: Callable[[str], None]
) -> str:
    """Trains a teacher; says how it does."""
    setting = config.teacher
    assert setting is not None
    what = ", ".join(f"{name} {value}" for name, value in setting.model.items())
    say(f"teacher: {what}; {setting.steps} steps")
    try:
        return _trained(config, task, directory, what)
    except InUseError:
        raise
    except Exception as error:
        raise TeacherError(
            f"The teacher ({what}) could not be trained: {error}"
        ) from error


def _trained(config: Config, task: Task, directory: pathlib.Path, what: str) -> str:
    setting = config.teacher
    assert setting is not None
    teacher = teacher_of(config, task, directory / "teachers")
    assert teacher is not None
    predict, arrays = jax.jit(teacher[0]), teacher[1]
    reached = evaluate(lambda *x: predict(arrays, *x), task, task.test).score
    shown = score_text(reached, task.judge.described())
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
    return (
        f"The teacher ({what}; {size:,} bytes in float32, {setting.steps} steps) has "
        f"{shown} on the test set. Every seed learns from the same one."
    )
