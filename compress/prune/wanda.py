"""Wanda: a weight counts for its magnitude times the norm of what it multiplies.

Source: Sun et al. 2023, eq. 1 and section 3. https://arxiv.org/abs/2306.11695
"""

import jax
import jax.numpy as jnp
import numpy as np

from compress.annotations import Array, Bool, Float, Int
from compress.prune.select import keep_largest, keep_largest_per_row


def wanda_scores(
    weights: Float[Array, "groups outputs inputs"],
    squared_norms: Float[Array, "groups inputs"],
) -> Float[Array, "groups outputs inputs"]:
    """`|W_ij| * ||X_j||_2`."""
    return jnp.abs(weights) * jnp.sqrt(squared_norms)[:, None, :]


def keep_per_output(
    scores: Float[Array, "groups outputs inputs"], sparsity: float
) -> Bool[Array, "groups outputs inputs"]:
    """Prunes in each row alone, as Wanda does; exact in each group.

    Rows differ by at most one, so that `round(sparsity * outputs * inputs)` is met.
    """
    groups, outputs, inputs = scores.shape
    each = jnp.asarray(split_evenly(sparsity, [inputs] * outputs))
    flat, counts = scores.reshape(-1, inputs), jnp.tile(each, groups)
    return jax.vmap(keep_largest)(flat, counts).reshape(scores.shape)


def keep_n_of_m(scores: Float[Array, "*rows"], n: int, m: int) -> Bool[Array, "*rows"]:
    """Keeps the `n` largest of each `m` neighbours in a row."""
    kept = keep_largest_per_row(scores.reshape(-1, m), jnp.int32(m - n))
    return kept.reshape(scores.shape)


def split_evenly(sparsity: float, sizes: list[int]) -> Int[np.ndarray, "parts"]:
    """How many to prune in each of several parts, so that the total is exact."""
    ends = np.cumsum([0, *sizes])
    return np.diff(np.round(sparsity * ends)).astype(np.int32)
