"""Makes the scores of units of different groups comparable."""

from collections.abc import Mapping, Sequence
from typing import Any

from compress.sites import Group

NORMALIZATIONS = ("mean", "none", "isomorphic")


def normalise(
    scores: Mapping[str, Any],
    alive: Mapping[str, Any],
    groups: Sequence[Group],
    how: str,
    xp: Any,
) -> dict[str, Any]:
    """Scores that can be ranked across groups; removed units do not count.

    Args:
      scores: By group name, `[units]` or `[layers, units]`.
      alive: Likewise, True where the unit is still there.
      groups: Those that are scored.
      how: `mean` divides by the mean of the group, and of each layer of its own
        (Molchanov et al. 2017 divide by the norm of the layer, section 2.2,
        https://arxiv.org/abs/1611.06440); `none` leaves them; `isomorphic` takes a
        unit's rank among the units of all groups with the same signature, 0 to 1
        (Fang et al. 2024, https://arxiv.org/abs/2407.04616).
      xp: `numpy` or `jax.numpy`.
    """
    if how == "none":
        return {group.name: scores[group.name] for group in groups}
    if how == "mean":
        return {
            group.name: _over_mean(scores[group.name], alive[group.name], xp)
            for group in groups
        }
    classes: dict[str, list[str]] = {}
    for group in groups:
        classes.setdefault(group.signature, []).append(group.name)
    ranked: dict[str, Any] = {}
    for names in classes.values():
        ranked.update(_ranks(names, scores, alive, xp))
    return ranked


def _over_mean(score: Any, alive: Any, xp: Any) -> Any:
    kept = xp.where(alive, score, xp.zeros_like(score))
    count = xp.maximum(alive.sum(axis=-1, keepdims=True), 1).astype(score.dtype)
    mean = kept.sum(axis=-1, keepdims=True) / count
    # Units that are all zero stay zero.
    return score / xp.where(mean > 0, mean, xp.ones_like(mean))


def _ranks(
    names: Sequence[str], scores: Mapping[str, Any], alive: Mapping[str, Any], xp: Any
) -> dict[str, Any]:
    """Ranks of the units of one class, as fractions of those that are left."""
    below = -xp.ones((), scores[names[0]].dtype)
    parts = [xp.where(alive[n], scores[n], below).ravel() for n in names]
    flat = xp.concatenate(parts)
    order = xp.argsort(flat, stable=True)
    ranks = xp.argsort(order, stable=True)
    count = xp.maximum(sum(alive[n].sum() for n in names), 1)
    removed = flat.shape[0] - count
    fractions = ((ranks - removed + 1) / count).astype(flat.dtype)
    fractions = xp.maximum(fractions, xp.zeros_like(fractions))
    found, start = {}, 0
    for name, part in zip(names, parts):
        size = part.shape[0]
        found[name] = fractions[start : start + size].reshape(scores[name].shape)
        start += size
    return found
