"""Observers: how the range of an activation is estimated from batches."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from compress.annotations import Array, Float, Int

OBSERVERS = ("ema", "absmax")


class Range(NamedTuple):
    """How large an activation was seen to be.

    Attributes:
      absmax: Largest magnitude; inside scans, one per layer.
      count: Batches seen; 0 means the range is not known yet.
    """

    absmax: Float[Array, "*stack"]
    count: Int[Array, "*stack"]


def empty_range(stack: tuple[int, ...]) -> Range:
    """A range of nothing, for a site inside scans of these lengths."""
    return Range(jnp.zeros(stack, jnp.float32), jnp.zeros(stack, jnp.int32))


def observe_range(x: Float[Array, "..."]) -> Range:
    """The range of one batch."""
    absmax = jnp.max(jnp.abs(x), initial=0.0).astype(jnp.float32)
    return Range(absmax, jnp.ones((), jnp.int32))


def join_ranges(seen: Mapping[str, Range]) -> dict[str, Range]:
    """The ranges of a whole batch, from those of its parts, stacked."""
    return jax.tree.map(lambda x: x.max(axis=0), dict(seen))


def merge_ranges(known: Range, seen: Range, *, observer: str, decay: float) -> Range:
    """The range after one more batch.

    Args:
      known: Before.
      seen: Of the batch; a count of 0 (a branch not taken) changes nothing.
      observer: `absmax` keeps the largest; `ema` averages exponentially (Jacob et
        al. 2018, section 3.1), and plainly at first, so that the first batch does not
        weigh more than others.
      decay: Of the average.
    """
    if observer == "absmax":
        merged = jnp.maximum(known.absmax, seen.absmax)
    else:
        count = known.count.astype(jnp.float32)
        # The mean of all batches so far, until there are 1 / (1 - decay) of them.
        keep = jnp.minimum(decay, count / (count + 1.0))
        merged = keep * known.absmax + (1.0 - keep) * seen.absmax
    absmax = jnp.where(seen.count > 0, merged, known.absmax)
    return Range(absmax, known.count + seen.count)
