"""Scores: how much a connection matters; the smallest are pruned.

A score that is NaN counts as the largest, so that its weight is kept, and is counted:
`compress.check` reports it. (A run finds NaN gradients by their loss before that.)
"""

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from compress.annotations import Array, PyTree

# Arrays by path of a pruned parameter.
ByPath = Mapping[str, Any]


class Evidence(NamedTuple):
    """What a score may look at.

    Attributes:
      weights: Now.
      grads: Of the loss at `before`; None before the first step.
      before: The weights before the optimizer's update; None likewise.
    """

    weights: ByPath
    grads: ByPath | None = None
    before: ByPath | None = None


class Score(NamedTuple):
    """How much connections matter.

    Attributes:
      name: For messages.
      scores: `(memory, Evidence) -> {path: array}`, of any sign.
      init: `(weights) -> memory`.
      update: `(memory, Evidence) -> memory`, after every step; None keeps it.
      needs: Fields of `Evidence` that it reads besides the weights.
    """

    name: str
    scores: Callable[[PyTree, Evidence], dict[str, Array]]
    init: Callable[[ByPath], PyTree] = lambda weights: ()
    update: Callable[[PyTree, Evidence], PyTree] | None = None
    needs: tuple[str, ...] = ()


def magnitude_score() -> Score:
    """|w|."""
    return Score("magnitude", lambda memory, seen: _each(jnp.abs, seen.weights))


def saliency_score() -> Score:
    """|w * g|: the change of the loss to first order, of the newest batch.

    Source: Mozer and Smolensky 1988; Molchanov et al. 2017,
    https://arxiv.org/abs/1611.06440
    """
    return Score("saliency", _saliency, needs=("grads", "before"))


def movement_score() -> Score:
    """The sum of -w * g over all steps: large for weights that move away from zero.

    Source: Sanh et al. 2020, eq. 5, https://arxiv.org/abs/2005.07683. The learning
    rate is left out, so that later steps of a falling schedule count as much.
    """
    return Score(
        "movement",
        scores=lambda memory, seen: dict(memory),
        init=lambda weights: _each(jnp.zeros_like, weights),
        update=_moved,
        needs=("grads", "before"),
    )


def random_score(seed: int = 0) -> Score:
    """Any weights: what every other score should beat. The same for the same seed."""
    return Score("random", partial(_random, seed))


SCORES: Mapping[str, Callable[[], Score]] = {
    "magnitude": magnitude_score,
    "saliency": saliency_score,
    "movement": movement_score,
    "random": random_score,
}


def as_score(score: str | Score, user: str) -> Score:
    """A score by its name.

    Raises:
      ValueError: If there is none of that name.
    """
    if isinstance(score, Score):
        return score
    if score not in SCORES:
        raise ValueError(f"{user}: score={score!r} must be one of {tuple(SCORES)}.")
    return SCORES[score]()


def random_like(x: Array, key: Array, path: str) -> Array:
    """Uniform numbers shaped like a parameter, others for each path."""
    key = jax.random.fold_in(key, zlib.crc32(path.encode()))
    return jax.random.uniform(key, x.shape, jnp.float32)


def _each(function: Any, arrays: ByPath) -> dict[str, Array]:
    return {path: function(x.astype(jnp.float32)) for path, x in arrays.items()}


def _products(seen: Evidence) -> dict[str, Array]:
    """The weights times their gradients, where the gradients are of."""
    assert seen.grads is not None
    assert seen.before is not None
    grads, before = _each(jnp.asarray, seen.grads), _each(jnp.asarray, seen.before)
    return {path: before[path] * grads[path] for path in before}


def _saliency(memory: PyTree, seen: Evidence) -> dict[str, Array]:
    return _each(jnp.abs, _products(seen))


def _moved(memory: dict[str, Array], seen: Evidence) -> dict[str, Array]:
    return {path: memory[path] - x for path, x in _products(seen).items()}


def _random(seed: int, memory: PyTree, seen: Evidence) -> dict[str, Array]:
    key = jax.random.key(seed)
    return {path: random_like(w, key, path) for path, w in seen.weights.items()}
