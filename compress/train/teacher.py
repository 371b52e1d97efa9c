"""The teacher: trained once, then shared by every run that learns from it."""

import pathlib

from compress.config import Config, Export, Stage, config_hash
from compress.schedule.techniques import Teacher
from compress.task import Task
from compress.train.checks import teacher_arrays, teacher_function
from compress.train.loop import finished, train

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
            # Its rules name the student's parameters.
            "sharding": config.sharding.model_copy(update={"rules": {}}),
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
    """Trains the teacher that stages distill from, or restores it from `directory`.

    Args:
      config: The student's.
      task: Of both.
      directory: Where teachers are kept, one folder per teacher.
      quiet: Shows no progress bar.
    """
    if config.teacher is None or not any(stage.distill for stage in config.stages):
        return None
    own = teacher_config(config)
    folder = directory / f"teacher-{config_hash(own)[:12]}"
    trained = finished(own, task, folder, seed=_SEED)
    if trained is None:
        trained = train(own, task, folder, seed=_SEED, resume=True, quiet=quiet)
    state = trained.state
    arrays = teacher_arrays(state.params, state.model_state)
    return teacher_function(trained.model), arrays
