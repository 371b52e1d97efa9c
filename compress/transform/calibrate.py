"""Runs calibration data through a model to find the ranges of its activations."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from compress.annotations import PyTree
from compress.sites import flat_paths
from compress.transform.apply import observe
from compress.transform.interface import State, Transform


def calibrate(
    forward: Callable[..., Any],
    transform: Transform,
    params: PyTree,
    state: State,
    batches: Iterable[Any],
) -> State:
    """The state after the observers have seen `batches`.

    The ranges are those of the model with its masks, before quantization.

    Args:
      forward: Any JAX function of parameters and inputs.
      transform: What was given to `init`.
      params: The parameters.
      state: From `init`, or after training.
      batches: Inputs of `forward`, a tuple each or one array; drawn from the training
        data, never from the test data.

    Raises:
      ValueError: If there are no batches, or one holds NaN or infinity.
    """
    return calibrator(forward, transform)(params, state, batches)


def calibrator(
    forward: Callable[..., Any], transform: Transform
) -> Callable[[PyTree, State, Iterable[Any]], State]:
    """`calibrate` for several parameters of one model: compiled once for all."""
    if transform.calibrate is None:
        raise ValueError(f"{transform.name} has nothing to calibrate.")
    observing = jax.jit(observe(forward, transform))
    return partial(_calibrated, observing, jax.jit(transform.calibrate))


def _calibrated(
    observing: Any, accumulate: Any, params: PyTree, state: State, batches: Any
) -> State:
    # Before step 0 nothing is quantized yet: the observers see the float model.
    before = state._replace(step=jnp.full((), -1, jnp.int32))
    memory, count = state.memory, 0
    for count, batch in enumerate(batches, start=1):
        inputs = batch if isinstance(batch, tuple) else (batch,)
        check_batch(inputs, count, user="calibrate")
        _, observed = observing(params, before, *inputs)
        memory = accumulate(memory, observed)
    if count == 0:
        raise ValueError(
            "calibrate: there are no batches. Give at least one batch of training data."
        )
    return State(state.step, memory)


def check_batch(inputs: Any, count: int, *, user: str) -> None:
    """Refuses a batch that is empty, or holds NaN or infinity.

    Args:
      inputs: Of the forward function.
      count: Which batch it is, for the message.
      user: Who was given it, `calibrate`.

    Raises:
      ValueError: That names the input.
    """
    for path, leaf in zip(flat_paths(inputs), jax.tree.leaves(inputs), strict=True):
        array = jnp.asarray(leaf)
        if jnp.issubdtype(array.dtype, jnp.floating) and not jnp.isfinite(array).all():
            raise ValueError(
                f"{user}: input {path} of batch {count} holds NaN or infinity. "
                "Clean the data."
            )
        if array.size == 0:
            raise ValueError(f"{user}: input {path} of batch {count} is empty.")
