"""Wanda: the score of the paper, ranked for each output alone, with exact counts."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from compress.prune.wanda import keep_n_of_m, keep_per_output, wanda_scores

RANDOM = np.random.default_rng(0)
W = RANDOM.standard_normal((2, 3, 8)).astype(np.float32)
NORMS = RANDOM.uniform(0.0, 4.0, (2, 8)).astype(np.float32)


def scores() -> Any:
    return wanda_scores(jnp.asarray(W), jnp.asarray(NORMS))


def test_the_score_is_magnitude_times_norm() -> None:
    expected = np.abs(W) * np.sqrt(NORMS)[:, None, :]
    np.testing.assert_allclose(scores(), expected, rtol=1e-6)


def test_each_output_loses_its_smallest_scores() -> None:
    kept = np.asarray(keep_per_output(scores(), 0.25))
    ranks = np.argsort(np.argsort(scores(), axis=-1), axis=-1)
    np.testing.assert_array_equal(kept, ranks >= 2)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.3, 0.9])
def test_rows_differ_by_at_most_one_and_each_group_is_exact(sparsity: float) -> None:
    kept = np.asarray(keep_per_output(jnp.ones((2, 3, 8)), sparsity))
    zeros = (~kept).sum(axis=-1)
    assert zeros.max() - zeros.min() <= 1
    np.testing.assert_array_equal(zeros.sum(axis=-1), round(sparsity * 24))


def test_n_of_m_keeps_the_largest_of_each_group_under_ties() -> None:
    values = jnp.asarray([[1.0, 3.0, 2.0, 0.0, 5.0, 5.0, 5.0, 5.0]])
    kept = np.asarray(keep_n_of_m(values, 2, 4))
    np.testing.assert_array_equal(kept, [[0, 1, 1, 0, 0, 0, 1, 1]])
