"""The train step: one pure function for a whole phase."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import compress.transform as transforms
from compress.adapters import Model
from compress.annotations import Array, PyTree
from compress.config import Config
from compress.promotion import default_promotion
from compress.schedule.gradient import build_gradient
from compress.schedule.numbers import Whose
from compress.schedule.optimizer import build_optimizer, learning_rate
from compress.task import Batch, Task, example_inputs
from compress.transform import State, Transform


class TrainState(NamedTuple):
    """Everything a run needs to go on: what a checkpoint holds.

    The position in the data is a function of the step and the key.

    Attributes:
      params: Of the model, before masks and quantization.
      model_state: Batch statistics and the like.
      optimizer: State of the optax optimizer.
      compression: State of the chain; its step counts the updates done.
      key: The seed of data order, augmentation and dropout.
    """

    params: PyTree
    model_state: PyTree
    optimizer: PyTree
    compression: State
    key: Array


def init_state(
    config: Config, task: Task, model: Model, transform: Transform, key: Array
) -> TrainState:
    """The state before the first step.

    Raises:
      ValueError: If a rule matches no site, or a parameter is not finite.
    """
    inputs = example_inputs(task, config.batch_size)
    compression = transforms.init(
        model.forward, transform, model.params, model.model_state, *inputs
    )
    optimizer = build_optimizer(config).init(model.params)
    state = TrainState(model.params, model.model_state, optimizer, compression, key)
    # Copied, so that donating the state leaves the caller's arrays alone.
    return jax.tree.map(jnp.copy, state)


def build_step(
    config: Config,
    task: Task,
    model: Model,
    transform: Transform,
    whose: Whose | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """The pure train step: `(state, batch) -> (state, metrics)`.

    Args:
      config: The run.
      task: Its task.
      model: In the shapes of this phase.
      transform: The chain of this phase.
      whose: The numbers of learning rates; by default those of the config.
    """
    optimizer, rate = build_optimizer(config, whose), learning_rate(config, whose)
    gradient = build_gradient(config, task, model, transform)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        count = state.compression.step
        key = jax.random.fold_in(jax.random.fold_in(state.key, 1), count)
        augment_key, model_key = jax.random.split(key)
        if task.augment is not None:
            batch = task.augment(augment_key, batch)
        loss, score, model_state, observed, grads = gradient(
            state.params, state.model_state, state.compression, batch, model_key
        )
        with default_promotion():  # optax mixes integer counts with floats
            updates, optimizer_state = optimizer.update(
                transforms.gradients(transform, state.compression, grads),
                state.optimizer,
                state.params,
            )
            params = optax.apply_updates(state.params, updates)
            learning_rate_now = jnp.asarray(rate(count), jnp.float32)
        params, optimizer_state = transforms.hold(
            transform, state.compression, params, optimizer_state
        )
        compression = transforms.update(
            transform, state.compression, params, grads, observed, state.params
        )
        metrics = {
            "loss": loss,
            "score": score,
            "learning_rate": learning_rate_now,
            **transforms.metrics(transform, compression),
        }
        new = TrainState(params, model_state, optimizer_state, compression, state.key)
        return new, metrics

    return step
