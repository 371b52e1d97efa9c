"""Masks with an exact number of zeros."""

import jax
import jax.numpy as jnp

from compress.annotations import Array, Bool, Float, Int


def keep_largest(
    scores: Float[Array, "size"], num_pruned: Int[Array, ""]
) -> Bool[Array, "size"]:
    """True everywhere but at the `num_pruned` smallest scores.

    Among equal scores the first ones are pruned, so the count is exact under any
    ties.

    Args:
      scores: Importance of each weight; NaN counts as the largest.
      num_pruned: How many to prune, 0 to `size`.
    """
    # argsort, not a threshold: ties at the threshold must be split exactly.
    order = jnp.argsort(scores, stable=True)
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(scores.size))
    return rank >= num_pruned


def keep_largest_per_row(
    scores: Float[Array, "rows size"],
    num_pruned: Int[Array, ""] | Int[Array, "rows"],
) -> Bool[Array, "rows size"]:
    """`keep_largest` in each row, with a number for each or one for all."""
    counts = jnp.broadcast_to(num_pruned, scores.shape[:1])
    return jax.vmap(keep_largest)(scores, counts)
