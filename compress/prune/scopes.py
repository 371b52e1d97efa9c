"""Scopes: how many units each site loses, or that all are ranked together."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from compress.annotations import Array, Float
from compress.prune.weights import Weight
from compress.sites import Sites, matching_sites


@dataclasses.dataclass(frozen=True)
class Part:
    """A parameter in units of the pattern.

    Attributes:
      weight: The parameter.
      rows: How many rows it has; each is ranked alone unless all are ranked together.
      size: Units in a row.
      share: The final sparsity that a map of the scope gives it, or None.
    """

    weight: Weight
    rows: int
    size: int
    share: float | None = None


Parts = Sequence[Part]
# How many units are pruned in each row, by path; one number if all rows lose as many.
# Ranked together, there is one number for "".
Counts = dict[str, np.ndarray]
TOGETHER = ""


class Request(NamedTuple):
    """What is to be shared out.

    Attributes:
      sparsity: At some time.
      last: In the end.
      least: What is pruned already and must stay so; None for nothing.
      min_kept: Units that each layer keeps.
      user: Who asks, for messages.
    """

    sparsity: float
    last: float
    least: Counts | None
    min_kept: int
    user: str


class Scope(NamedTuple):
    """How a sparsity is shared out.

    Attributes:
      name: For messages.
      text: For people, after a percentage: "of each".
      allocate: How many units are pruned; raises if a layer would die.
      together: Whether all units are ranked against one another.
      normalize: Whether the scores of each row are first made comparable.
      shares: Final sparsities by glob, of an explicit map.
    """

    name: str
    text: str
    allocate: Callable[[Parts, Request], Counts]
    together: bool = False
    normalize: bool = False
    shares: Mapping[str, float] | None = None


def uniform() -> Scope:
    """Every site and every scanned layer gets the same sparsity."""
    return Scope("uniform", "of each", _uniform)


def globally() -> Scope:
    """The units of all sites are ranked together, by their scores as they are."""
    return Scope("global", "of all sites together", _together, together=True)


def normalized() -> Scope:
    """Like global, after each row's scores are divided by their root mean square."""
    return Scope(
        "normalized",
        "of all sites together, scores normalized",
        _together,
        together=True,
        normalize=True,
    )


def erk() -> Scope:
    """Larger layers get sparser (Erdos-Renyi-Kernel).

    The kept fraction of a layer is in proportion to the sum of its sizes over their
    product, window included; a layer that would keep more than it has stays dense and
    the others make up for it. The number of zeros over all layers is exact.

    Source: Evci et al. 2020, section 3, https://arxiv.org/abs/1911.11134
    """
    return Scope("erk", "of all (ERK)", _erk)


def explicit(shares: Mapping[str, float]) -> Scope:
    """Each site's own final sparsity, by glob; of several that match, the last counts.

    Sites that no glob names get the sparsity of the schedule. During a ramp all are
    equally far on their way.

    Raises:
      ValueError: If a sparsity is outside [0, 1), or there is none.
    """
    if not shares:
        raise ValueError("prune: scope={} names no site. Give {glob: sparsity}.")
    for glob, value in shares.items():
        if not 0.0 <= value < 1.0:
            raise ValueError(
                f'prune: scope["{glob}"]={value} must be at least 0 and below 1; it is '
                "the fraction of zeros."
            )
    return Scope("map", "of each", _explicit, shares=shares)


SCOPES: Mapping[str, Callable[[], Scope]] = {
    "global": globally,
    "normalized": normalized,
    "uniform": uniform,
    "erk": erk,
}


def as_scope(scope: str | Mapping[str, float] | Scope, user: str) -> Scope:
    """A scope by its name, or an explicit one.

    Raises:
      ValueError: If there is none of that name.
    """
    if isinstance(scope, Scope):
        return scope
    if isinstance(scope, Mapping):
        return explicit(scope)
    if scope not in SCOPES:
        raise ValueError(
            f"{user}: scope={scope!r} must be one of {tuple(SCOPES)}, or a map from "
            "globs to sparsities."
        )
    return SCOPES[scope]()


def with_shares(scope: Scope, parts: Parts, sites: Sites, user: str) -> list[Part]:
    """The parts with what an explicit map says of them.

    Raises:
      ValueError: If a glob matches no site, or none that is pruned.
    """
    found: dict[str, float] = {}
    pruned = {part.weight.path for part in parts}
    for glob, value in (scope.shares or {}).items():
        matched = {str(s.path) for s in matching_sites(sites, glob, user=user)}
        if not matched & pruned:
            raise ValueError(
                f'{user}: scope["{glob}"] matches only {", ".join(sorted(matched))}, '
                "which is not pruned. Leave it out, or prune it."
            )
        found |= dict.fromkeys(matched & pruned, value)
    return [dataclasses.replace(p, share=found.get(p.weight.path)) for p in parts]


def root_mean_square(
    scores: Float[Array, "rows units"],
) -> Float[Array, "rows 1"]:
    """What the scores of each row are divided by; 1 where all are zero."""
    size = jnp.sqrt(jnp.mean(jnp.square(scores), axis=1, keepdims=True))
    return jnp.where(size > 0, size, jnp.ones_like(size))


def _uniform(parts: Parts, asked: Request) -> Counts:
    return _each(parts, dict.fromkeys(_paths(parts), asked.sparsity), asked)


def _explicit(parts: Parts, asked: Request) -> Counts:
    progress = asked.sparsity / asked.last if asked.last else 1.0
    shares = {
        p.weight.path: asked.sparsity if p.share is None else p.share * progress
        for p in parts
    }
    return _each(parts, shares, asked)


def _together(parts: Parts, asked: Request) -> Counts:
    return {TOGETHER: np.array([_total(parts, asked)])}


def _erk(parts: Parts, asked: Request) -> Counts:
    rows = np.array([part.rows for part in parts])
    sizes = np.repeat([part.size for part in parts], rows)
    shapes = [_layer_shape(p.weight) for p in parts]
    density = erk_density(shapes, rows, 1 - asked.sparsity)
    lowest = np.zeros_like(sizes)
    if asked.least is not None:
        lowest = np.concatenate(list(asked.least.values()))
    highest = np.maximum(sizes - asked.min_kept, lowest)
    wanted = sizes * (1 - np.repeat(density, rows))
    counts = apportion(wanted, _total(parts, asked), lowest, highest)
    return dict(zip(_paths(parts), np.split(counts, np.cumsum(rows)[:-1])))


def _paths(parts: Parts) -> list[str]:
    return [part.weight.path for part in parts]


def _each(parts: Parts, shares: Mapping[str, float], asked: Request) -> Counts:
    """The same fraction of each row of a parameter."""
    counts = {}
    for part in parts:
        path, share = part.weight.path, shares[part.weight.path]
        counts[path] = np.array([round(share * part.size)])
        most = part.size - asked.min_kept
        if counts[path][0] > most:
            raise ValueError(
                f'{asked.user} "{path}": sparsity={share:g} prunes {counts[path][0]} '
                f"of {part.size}{_in_each(part)}, but min_kept={asked.min_kept} must "
                f"stay. {_highest(most, part.size)}"
            )
    return counts


def _total(parts: Parts, asked: Request) -> int:
    """How many are pruned of all together."""
    size = sum(part.rows * part.size for part in parts)
    count = round(asked.sparsity * size)
    most = size - sum(part.rows for part in parts) * asked.min_kept
    if count > most:
        raise ValueError(
            f"{asked.user}: sparsity={asked.sparsity:g} prunes {count} of {size}, but "
            f"min_kept={asked.min_kept} must stay in each layer of "
            f"{', '.join(_paths(parts)[:3])}. {_highest(most, size)}"
        )
    return count


def _in_each(part: Part) -> str:
    return " in each layer" if part.rows > 1 else ""


def _highest(most: int, size: int) -> str:
    highest = max(math.floor(1e4 * most / size) / 1e4, 0.0)
    return f"Give at most {highest:g}, or exclude the site."


def _layer_shape(weight: Weight) -> tuple[int, ...]:
    return tuple(s for i, s in enumerate(weight.shape) if i not in weight.layers)


def erk_density(
    shapes: Sequence[tuple[int, ...]], repeats: np.ndarray, density: float
) -> np.ndarray:
    """The kept fraction of each layer so that all together keep `density`.

    Args:
      shapes: Of the layers: inputs, outputs and window in any order.
      repeats: How often there is each.
      density: Of all layers together.
    """
    sizes = np.array([np.prod(shape) for shape in shapes], float) * repeats
    raw = np.array([np.sum(shape) / np.prod(shape) for shape in shapes])
    dense = np.zeros(len(sizes), bool)
    while not dense.all():
        budget = density * sizes.sum() - sizes[dense].sum()
        scale = budget / (raw * sizes)[~dense].sum()
        over = ~dense & (scale * raw > 1)
        if not over.any():
            return np.where(dense, 1.0, scale * raw)
        dense |= over & (raw == raw[over].max())
    return np.ones(len(sizes))


def apportion(
    wanted: Float[np.ndarray, "rows"],
    total: int,
    lowest: np.ndarray,
    highest: np.ndarray,
) -> np.ndarray:
    """Whole numbers near `wanted` within bounds, whose sum is exactly `total`.

    Raises:
      ValueError: If the bounds do not allow it.
    """
    if not lowest.sum() <= total <= highest.sum():
        raise ValueError(f"{total} is not between {lowest.sum()} and {highest.sum()}")
    counts = np.clip(np.round(wanted).astype(int), lowest, highest)
    while (missing := total - counts.sum()) != 0:
        step = int(np.sign(missing))
        free = np.flatnonzero(counts < highest if step > 0 else counts > lowest)
        # Those furthest from what they wanted, on the side that needs it, come first.
        order = np.argsort(-step * (wanted - counts)[free], kind="stable")
        counts[free[order[: abs(missing)]]] += step
    return counts
