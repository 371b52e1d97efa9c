"""The gradient of one step: of a whole batch, or of its parts one after the other."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import compress.transform as transforms
from compress.adapters import Model
from compress.annotations import Array, Float, PyTree
from compress.config import Config
from compress.task import Batch, Task, TaskError
from compress.transform import State, Transform


class Gradient(NamedTuple):
    """What a batch says of a model.

    Attributes:
      loss: Mean over the batch.
      score: Of the task's metric, likewise.
      model_state: After the batch.
      observed: What transforms observed at the sites.
      grads: Of the loss, like the parameters.
    """

    loss: Float[Array, ""]
    score: Float[Array, ""]
    model_state: PyTree
    observed: Any
    grads: PyTree


# (params, model_state, compression, batch, key of dropout) -> Gradient
GradientOf = Callable[[PyTree, PyTree, State, Batch, Array], Gradient]


def build_gradient(
    config: Config, task: Task, model: Model, transform: Transform
) -> GradientOf:
    """The gradient of one batch, as the config wants it computed.

    `remat` computes activations again in the backward pass instead of keeping them.
    `accumulate` computes the batch in parts of every k-th example, so that the parts of
    a batch lie on all devices of a mesh. Gradients and losses are averaged, which for
    a mean over examples is that of the whole batch; batch statistics are of one part
    at a time.
    """
    whole = _whole(config, task, model, transform)
    if config.accumulate == 1:
        return whole
    return _in_parts(whole, transform, config.accumulate)


def _whole(
    config: Config, task: Task, model: Model, transform: Transform
) -> GradientOf:
    def gradient(
        params: PyTree, model_state: PyTree, compression: State, batch: Batch, key: Any
    ) -> Gradient:
        inputs = task.inputs_of(batch)

        def forward(params: PyTree, model_state: PyTree, *inputs: Any) -> Any:
            return model.forward(params, model_state, *inputs, train=True, key=key)

        run = transforms.observe(forward, transform, shifted=True)
        if config.remat is not None:
            policy = getattr(jax.checkpoint_policies, config.remat)
            run = jax.checkpoint(run, policy=policy)

        def loss_of(params: PyTree) -> Any:
            (outputs, new_state), observed = run(
                params, compression, model_state, *inputs
            )
            loss = transforms.loss(
                transform, compression, task.loss(outputs, batch), inputs, outputs
            )
            return loss, (outputs, new_state, observed)

        grad_of = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (outputs, new_state, observed)), grads = grad_of(params)
        score = _score(task, outputs, batch)
        return Gradient(loss, score, new_state, observed, grads)

    return gradient


def _score(task: Task, outputs: Any, batch: Batch) -> Float[Array, ""]:
    """The mean of the task's metric; found to be no number per example when traced."""
    values = task.judge.of(outputs, batch)
    size = len(next(iter(batch.values())))
    if values.shape != (size,):
        raise TaskError(
            f"metric {task.judge.name!r} gives an array {values.shape} for a batch of "
            f"{size}. Return one number per example: a mean over all other axes."
        )
    return jnp.mean(values.astype(jnp.float32))


def _in_parts(whole: GradientOf, transform: Transform, parts: int) -> GradientOf:
    """One part after the other; only the sum of the gradients is kept."""

    def gradient(
        params: PyTree, model_state: PyTree, compression: State, batch: Batch, key: Any
    ) -> Gradient:
        split = {name: _split(x, parts) for name, x in batch.items()}
        keys = jax.random.split(key, parts)

        def one(carry: Any, part: Any) -> Any:
            model_state, total = carry
            found = whole(params, model_state, compression, *part)
            total = jax.tree.map(jnp.add, total, found.grads)
            seen = found.loss, found.score, found.observed
            return (found.model_state, total), seen

        start = (model_state, jax.tree.map(jnp.zeros_like, params))
        (model_state, total), seen = jax.lax.scan(one, start, (split, keys))
        losses, scores, observed = seen
        return Gradient(
            losses.mean(),
            scores.mean(),
            model_state,
            transforms.join(transform, observed),
            jax.tree.map(lambda x: x / parts, total),
        )

    return gradient


def _split(x: Array, parts: int) -> Array:
    """`[parts, examples / parts, ...]`: part k holds every parts-th example from k."""
    return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
