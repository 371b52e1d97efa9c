"""Evaluation of outputs of every shape."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from compress.task import Metric
from compress.train import evaluate
from compress.train.evaluate import EvaluationError
from tests import tiny

TASK = tiny.task()._replace(correct=lambda outputs, batch: batch["y"] == 0)
SCORES = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)


def decisions(wrap: Any) -> Any:
    return evaluate(lambda x: wrap(jnp.asarray(SCORES)), TASK, TASK.test).decisions


@pytest.mark.parametrize(
    "wrap",
    [
        lambda scores: scores,
        lambda scores: {"scores": scores, "count": jnp.zeros((40, 2), jnp.int32)},
        lambda scores: (scores.sum(-1), scores),
        lambda scores: [{"a": scores}, scores[:, :1]],
    ],
)
def test_the_one_array_of_scores_decides_wherever_it_is(wrap: Any) -> None:
    np.testing.assert_array_equal(decisions(wrap), SCORES.argmax(-1))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda scores: scores.sum(-1),
        lambda scores: scores[:, :1],
        lambda scores: scores.astype(jnp.int32),
        lambda scores: {"one": scores, "other": scores},
    ],
)
def test_outputs_that_are_not_the_scores_of_classes_decide_nothing(wrap: Any) -> None:
    assert decisions(wrap) is None


def judged(of: Any, **changes: Any) -> Any:
    metric = Metric(of, "loss", "nats", 1.0, higher_is_better=False)
    task = tiny.task()._replace(correct=None, metric=metric, **changes)
    return evaluate(lambda x: jnp.asarray(SCORES), task, task.test)


def test_a_metric_of_ones_own_is_averaged_over_examples_and_kept_for_each() -> None:
    extras = {"first": lambda outputs, batch: outputs[:, 0]}
    found = judged(lambda outputs, batch: outputs.sum(-1), extra_metrics=extras)
    np.testing.assert_allclose(found.values, SCORES.sum(-1), rtol=1e-6)
    assert found.values.dtype == np.float32
    assert found.score == pytest.approx(SCORES.sum(-1).mean())
    assert found.extras == {"first": pytest.approx(SCORES[:, 0].mean())}


@pytest.mark.parametrize(
    ("of", "remedy"),
    [
        (lambda outputs, batch: outputs, "a mean over all other axes"),
        (lambda outputs, batch: outputs.mean(), "one number per example"),
        (
            lambda outputs, batch: jnp.where(jnp.arange(40) == 7, jnp.nan, 0.0),
            "is nan for example 7",
        ),
    ],
)
def test_a_metric_that_is_no_number_per_example_is_refused(
    of: Any, remedy: str
) -> None:
    with pytest.raises(EvaluationError, match=remedy):
        judged(of)


def test_outputs_that_are_said_to_be_no_classes_decide_nothing() -> None:
    task = TASK._replace(classifies=False)
    found = evaluate(lambda x: jnp.asarray(SCORES), task, task.test)
    assert found.decisions is None
