"""The teacher: trained once, then shared by every run that learns from it."""

import pathlib
from typing import Any

from compress.annotations import PyTree
from compress.config import Config, Export, Stage, config_hash
from compress.schedule.techniques import Teacher
from compress.task import Task
from compress.train.loop import train

# One teacher for all seeds: rows are compared as students of the same one.
_SEED = 0


def teacher_config(config: Config) -> Config:
    """The teacher's training as a config of its own."""
    teacher = config.teacher
    assert teacher is not None
    stage = Stage(
        name="teach", steps=teacher.steps, learning_rate=teacher.learning_rate
    )
    return config.model_copy(
        update={
            "name": "teacher",
            "model": teacher.model,
            "teacher": None,
            "stages": (stage,),
            "export": Export(),
            "compare": None,
            "seeds": (_SEED,),
        }
    )


def teacher_of(
    config: Config, task: Task, directory: pathlib.Path, *, quiet: bool = False
) -> Teacher | None:
    """Trains the teacher a config asks for, or restores the one in `directory`.

    Args:
      config: The student's.
      task: Of both.
      directory: Where teachers are kept, one folder per teacher.
      quiet: Shows no progress bar.
    """
    if config.teacher is None:
        return None
    own = teacher_config(config)
    folder = directory / f"teacher-{config_hash(own)[:12]}"
    trained = train(own, task, folder, seed=_SEED, resume=True, quiet=quiet)
    forward = trained.model.forward

    def predict(arrays: PyTree, *inputs: Any) -> Any:
        return forward(arrays["params"], arrays["model_state"], *inputs)[0]

    state = trained.state
    return predict, {"params": state.params, "model_state": state.model_state}
