"""Evaluation of outputs of every shape."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from compress.train import evaluate
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
