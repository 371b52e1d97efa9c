"""The teachers of a comparison, trained before its cells."""

import pathlib
from collections.abc import Callable

import jax

from compress.config import Config, config_hash, row_config
from compress.report import score_text
from compress.task import Task, load_task
from compress.train import evaluate, teacher_of
from compress.train.teacher import teacher_config


def train_teachers(
    config: Config, directory: pathlib.Path, say: Callable[[str], None]
) -> list[str]:
    """Trains each teacher once, before two cells could train the same one.

    Returns:
      A sentence about each, for the report.
    """
    assert config.compare is not None
    own = [row_config(config, row) for row in config.compare.rows]
    distinct = {
        config_hash(teacher_config(row)): row for row in own if row.teacher is not None
    }
    task = load_task(config.task, config.data)
    return [_train(row, task, directory, say) for row in distinct.values()]


def _train(
    config: Config, task: Task, directory: pathlib.Path, say: Callable[[str], None]
) -> str:
    setting = config.teacher
    assert setting is not None
    what = ", ".join(f"{name} {value}" for name, value in setting.model.items())
    say(f"teacher: {what}; {setting.steps} steps")
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
