"""Evaluates a predictor on all examples of a data set."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compress.annotations import Bool, Int, Shaped
from compress.data import Data, batches_of
from compress.task import Task

_BATCH = 512


class Evaluation(NamedTuple):
    """How a predictor did.

    Attributes:
      accuracy: Fraction of examples it got right.
      correct: Which ones.
      decisions: The class it chose for each; None where the outputs are not the
        scores of classes.
    """

    accuracy: float
    correct: Bool[np.ndarray, "examples"]
    decisions: Int[np.ndarray, "..."] | None


def evaluate(predict: Callable[..., Any], task: Task, data: Data) -> Evaluation:
    """Runs `predict(*inputs) -> outputs` over `data`, some hundred examples a time."""
    correct, decisions = [], []
    for batch in batches_of(data, _BATCH):
        outputs = predict(*task.inputs_of(batch))
        correct.append(np.asarray(task.correct(outputs, batch)))
        scores = _scores(outputs)
        if scores is not None:
            decisions.append(scores.argmax(-1))
    hits = np.concatenate(correct).astype(bool)
    chosen = np.concatenate(decisions) if decisions else None
    return Evaluation(float(hits.mean()), hits, chosen)


def _scores(outputs: Any) -> Shaped[np.ndarray, "..."] | None:
    """The one array of the outputs that can be scores of classes, on its last axis."""
    found = [
        leaf
        for leaf in jax.tree.leaves(outputs)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
        and leaf.ndim >= 2
        and leaf.shape[-1] >= 2
    ]
    return np.asarray(found[0]) if len(found) == 1 else None
