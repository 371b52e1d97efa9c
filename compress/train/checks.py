"""What can be known to be wrong before any work starts."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from compress.adapters import Model
from compress.config import Config
from compress.data import num_examples, shapes_of
from compress.schedule import TrainState, build_step, plan_sharding, post_training
from compress.schedule.techniques import Teacher
from compress.sites import find_sites
from compress.task import Task, TaskError, build_model, example_inputs
from compress.train.phases import Entered, Job, foresee, start, with_arrays
from compress.transform import Transform


def check_schedule(config: Config, task: Task, teacher: Teacher | None = None) -> None:
    """Finds whatever a trace can tell is wrong with a run; nothing is computed.

    Args:
      config: Of one run.
      task: Its task.
      teacher: Trained or not; by default an untrained one is built if needed.

    Raises:
      TaskError: If the data do not suit the config.
      ValueError: If a rule matches no site, or student and teacher do not fit.
    """
    check_data(config, task)
    if teacher is None and config.teacher is not None:
        teacher = untrained_teacher(config, task)
    *_, last = check_phases(Job(config, task, teacher, seed=0))
    _check_post_training(config, task, last.model)


def check_phases(job: Job) -> list[Entered]:
    """Traces the train step of every phase, and returns them as they are foreseen.

    Units are removed as some choice that meets the budget would: what comes after a
    boundary is known before the units are.
    """
    phases = foresee(job)
    for entered in phases:
        first = entered.phase.index == 0
        plan_sharding(job.config, entered.model.params, first=first)
        state = state_shapes(job, entered)
        check_step(job.config, job.task, entered.model, entered.transform, state)
    return phases


def state_shapes(job: Job, entered: Entered) -> TrainState:
    """The shapes of the state in which a phase starts."""

    def started(params: Any, model_state: Any) -> TrainState:
        key = jax.random.key(0)
        return start(job, with_arrays(entered, params, model_state), key)

    return jax.eval_shape(started, entered.model.params, entered.model.model_state)


def untrained_teacher(config: Config, task: Task) -> Teacher:
    """The teacher with the parameters it starts from."""
    assert config.teacher is not None
    arguments, key = config.teacher.model, jax.random.key(0)
    model = build_model(task, config.task, arguments, key, compute=config.compute)
    return teacher_function(model), teacher_arrays(model.params, model.model_state)


def teacher_function(model: Model) -> Any:
    """A model as a function of its arrays and the student's inputs."""

    def predict(arrays: Any, *inputs: Any) -> Any:
        return model.forward(arrays["params"], arrays["model_state"], *inputs)[0]

    return predict


def teacher_arrays(params: Any, model_state: Any) -> dict[str, Any]:
    """The arrays of a teacher, as `teacher_function` takes them."""
    return {"params": params, "model_state": model_state}


def _check_post_training(config: Config, task: Task, model: Model) -> None:
    setting = config.export.quantize
    if setting is None:
        return
    examples = num_examples(task.train)
    most = examples // config.batch_size
    if setting.batches > most:
        raise TaskError(
            f"export.quantize.batches={setting.batches}: the {examples} training "
            f"examples give {most} batches of {config.batch_size}. Use at most {most}."
        )
    inputs = example_inputs(task, config.batch_size)
    sites = find_sites(model.forward, model.params, model.model_state, *inputs)
    jax.eval_shape(lambda p: post_training(setting).init(p, sites), model.params)


def check_data(config: Config, task: Task) -> None:
    """Refuses data with too few examples for a batch, or that are not finite."""
    examples = num_examples(task.train)
    if config.batch_size > examples:
        raise TaskError(
            f"batch_size={config.batch_size} is larger than the {examples} training "
            f"examples of {config.task}. Use at most {examples}."
        )
    for part in ("train", "validation", "test"):
        data = getattr(task, part)
        # What is read from files later is checked by the loss.
        for name, array in data.items() if isinstance(data, Mapping) else ():
            x = np.asarray(array)
            if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
                raise TaskError(
                    f"{config.task}: {part}[{name!r}] holds NaN or infinity. Clean the "
                    "data."
                )


def check_step(
    config: Config, task: Task, model: Model, transform: Transform, state: TrainState
) -> None:
    """Traces one step, so that whatever does not fit is found before work starts."""
    batch = {
        name: jax.ShapeDtypeStruct((config.batch_size, *x.shape), x.dtype)
        for name, x in shapes_of(task.train).items()
    }
    jax.eval_shape(build_step(config, task, model, transform), state, batch)
