"""Evaluates a predictor on all examples of a data set."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compress.annotations import Int, Shaped
from compress.data import Batch, Data, batches_of
from compress.task import Task

_BATCH = 512


class EvaluationError(ValueError):
    """A metric that does not give a number for every example."""


class Evaluation(NamedTuple):
    """How a predictor did.

    Attributes:
      score: Mean of the task's metric over the examples.
      values: The metric of each: bool where the task says which are correct, else
        float32.
      extras: Means of the task's extra metrics, by name.
      decisions: The class it chose for each; None where the outputs are not the
        scores of classes.
    """

    score: float
    values: Shaped[np.ndarray, "examples"]
    extras: Mapping[str, float]
    decisions: Int[np.ndarray, "..."] | None


def evaluate(predict: Callable[..., Any], task: Task, data: Data) -> Evaluation:
    """Runs `predict(*inputs) -> outputs` over `data`, some hundred examples a time.

    Raises:
      EvaluationError: If a metric gives something else than a finite number per
        example.
    """
    metrics = {task.judge.name: task.judge.of, **task.extra_metrics}
    found: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    decisions = []
    for index, batch in enumerate(batches_of(data, _BATCH)):
        outputs = predict(*task.inputs_of(batch))
        for name, of in metrics.items():
            values = of(outputs, batch)
            found[name].append(_per_example(name, values, batch, index * _BATCH))
        scores = _scores(outputs) if task.classifies else None
        if scores is not None:
            decisions.append(scores.argmax(-1))
    means = {name: _mean(parts) for name, parts in found.items()}
    judged = np.concatenate(found[task.judge.name])
    judged = judged.astype(np.float32 if task.correct is None else bool)
    chosen = np.concatenate(decisions) if decisions else None
    return Evaluation(means.pop(task.judge.name), judged, means, chosen)


def _per_example(
    name: str, values: Any, batch: Batch, start: int
) -> Shaped[np.ndarray, "examples"]:
    """What a metric gave for a batch, or why that is no score."""
    array, size = np.asarray(values), len(next(iter(batch.values())))
    if array.shape != (size,):
        raise EvaluationError(
            f"metric {name!r} gives an array {array.shape} for {size} examples. Return "
            "one number per example: a mean over all other axes."
        )
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise EvaluationError(
            f"metric {name!r} is {array[bad[0]]} for example {start + bad[0]} (and "
            f"{bad.size - 1} more of its batch). Bound the metric, or mend the data."
        )
    return array


def _mean(parts: Sequence[np.ndarray]) -> float:
    return float(np.concatenate(parts).mean(dtype=np.float64))


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
