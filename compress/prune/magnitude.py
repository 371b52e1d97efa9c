"""Magnitude pruning: the smallest weights go, gradually or at once.

Source: Zhu and Gupta 2017, https://arxiv.org/abs/1710.01878. Unlike there, a pruned
weight never comes back: the mask is an invariant of every later stage.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compress.annotations import Array, Bool, Float, PyTree
from compress.interpret import Quantized
from compress.prune.select import keep_largest, keep_largest_per_row
from compress.sites import (
    Site,
    Sites,
    flatten_parameters,
    matching_sites,
    parameter_paths,
)
from compress.transform import Ramp, Transform, Update, ramp

SCOPES = ("global", "uniform")


class MagnitudeState(NamedTuple):
    """What magnitude pruning remembers.

    Attributes:
      masks: By path of a pruned parameter; True where the weight is kept.
      rows: The structure of those parameters: how many layers each one stacks.
    """

    masks: dict[str, Bool[Array, "..."]]
    rows: "Rows"


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Rows:
    """How many scanned layers each parameter stacks, by path."""

    by_path: tuple[tuple[str, int], ...]


def magnitude(
    sparsity: float | Ramp | Sequence[Ramp],
    *,
    sites: str | Sequence[str] = "**",
    exclude: str | Sequence[str] = (),
    scope: str = "global",
    every: int = 1,
) -> Transform:
    """Prunes the weights of smallest magnitude, unstructured.

    Only weights of sites are pruned: biases, norms and embeddings are not, unless
    an embedding is also a site's weight and its exact name is among `sites`.
    The number of zeros is exact, and reached at the end of a ramp whatever `every`.

    Args:
      sparsity: Fraction of zeros, in [0, 1): a number (at once, before the first
        step), a ramp, or several ramps one after the other.
      sites: Patterns; see `compress.sites.matching_sites`.
      exclude: Likewise, of sites that stay dense.
      scope: `global` ranks the weights of all sites together, `uniform` prunes each
        site (and each scanned layer) to the same sparsity.
      every: Steps between updates of the mask during a ramp.

    Raises:
      ValueError: If a setting is out of range.
    """
    settings = _Settings(_as_ramps(sparsity), sites, exclude, scope, every)
    _check_settings(settings.ramps, scope, every)
    return Transform(
        name="prune.magnitude",
        init=partial(_init, settings),
        parameters=lambda memory, params, step: apply_masks(params, memory.masks),
        update=partial(_update, settings),
        metrics=lambda memory, step: {"sparsity": sparsity_of(memory.masks)},
        check=_check_masks,
        plan=partial(_plan, settings),
        provides=frozenset({"mask"}),
        preserves=frozenset({"mask"}),
    )


class _Settings(NamedTuple):
    """The arguments of `magnitude`."""

    ramps: tuple[Ramp, ...]
    sites: str | Sequence[str]
    exclude: str | Sequence[str]
    scope: str
    every: int

    def choose(self, sites: Sites) -> list[Site]:
        """The sites to prune: embeddings only where they are named exactly."""
        user = "prune.magnitude"
        found = matching_sites(sites, self.sites, self.exclude, user=user)
        named = {self.sites} if isinstance(self.sites, str) else set(self.sites)
        kept = [s for s in found if s.path not in sites.embeddings or s.name in named]
        if not kept:
            raise ValueError(
                "prune.magnitude: only embeddings match. Name them exactly in sites to "
                "prune them."
            )
        return kept


def _init(settings: _Settings, params: PyTree, sites: Sites) -> MagnitudeState:
    by_path = parameter_paths(params)
    stacks = {str(site.path): _num_rows(site) for site in settings.choose(sites)}
    masks = {path: jnp.ones(by_path[path].shape, bool) for path in sorted(stacks)}
    state = MagnitudeState(masks, Rows(tuple(sorted(stacks.items()))))
    # Without values to rank (shapes only) the mask can still be that of a ramp.
    first = settings.ramps[0]
    if first.initial == 0.0 and first.end > 0:
        return state
    start = jnp.zeros((), jnp.int32)
    return state._replace(masks=_shrink(settings, state, params, start))


def _shrink(
    settings: _Settings, state: MagnitudeState, params: PyTree, step: Array
) -> dict[str, Array]:
    """The masks at this step; never more weights than before."""
    by_path = parameter_paths(params)
    scores = {
        # Below every magnitude: what is pruned stays pruned.
        path: jnp.where(mask, jnp.abs(by_path[path]).astype(jnp.float32), -1.0)
        for path, mask in state.masks.items()
    }
    count = partial(_count, settings.ramps, step)
    if settings.scope == "global":
        total = sum(score.size for score in scores.values())
        kept = keep_largest(scores, count(total))
    else:
        rows = dict(state.rows.by_path)
        kept = {p: _keep_rows(score, rows[p], count) for p, score in scores.items()}
    return {path: mask & kept[path] for path, mask in state.masks.items()}


def _update(settings: _Settings, memory: MagnitudeState, what: Update) -> Any:
    masks = jax.lax.cond(
        _is_due(settings.ramps, what.step, settings.every),
        lambda: _shrink(settings, memory, what.params, what.step),
        lambda: memory.masks,
    )
    return memory._replace(masks=masks)


def _plan(settings: _Settings, sites: Sites) -> dict[str, str]:
    final = f"pruned {settings.ramps[-1].final:.0%}"
    together = settings.scope == "global"
    scoped = "of all sites together" if together else "of each"
    return {site.name: f"{final} {scoped}" for site in settings.choose(sites)}


def apply_masks(params: PyTree, masks: Mapping[str, Bool[Array, "..."]]) -> PyTree:
    """The parameters with zeros where the mask is False; boxes keep their scale."""
    paths, leaves, structure = flatten_parameters(params)
    masked = [
        _masked(leaf, masks[path]) if path in masks else leaf
        for path, leaf in zip(paths, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, masked)


def _masked(leaf: Any, mask: Bool[Array, "..."]) -> Any:
    if isinstance(leaf, Quantized):
        return dataclasses.replace(leaf, qvalue=_masked(leaf.qvalue, mask))
    return jnp.where(mask, leaf, jnp.zeros_like(leaf))


def sparsity_of(masks: Mapping[str, Bool[Array, "..."]]) -> Float[Array, ""]:
    """The fraction of zeros over all masks."""
    total = sum(mask.size for mask in masks.values())
    zeros = [jnp.sum(~mask, dtype=jnp.int32) for mask in masks.values()]
    return (jnp.sum(jnp.stack(zeros)) / total).astype(jnp.float32)


def _as_ramps(sparsity: float | Ramp | Sequence[Ramp]) -> tuple[Ramp, ...]:
    if isinstance(sparsity, Ramp):
        return (sparsity,)
    if isinstance(sparsity, (int, float)):
        return (ramp(0.0, sparsity, steps=(0, 0)),)
    return tuple(sparsity)


def _check_settings(ramps: tuple[Ramp, ...], scope: str, every: int) -> None:
    if not ramps:
        raise ValueError("prune.magnitude: sparsity is empty. Give a number or a ramp.")
    for value in [v for r in ramps for v in (r.initial, r.final)]:
        if not 0.0 <= value < 1.0:
            raise ValueError(
                f"prune.magnitude: sparsity={value} must be at least 0 and below 1; "
                "it is the fraction of zeros."
            )
    for falling in [r for r in ramps if r.final < r.initial]:
        raise ValueError(
            f"prune.magnitude: the ramp from {falling.initial} to {falling.final} "
            "falls, but pruned weights do not come back. Let it rise."
        )
    if scope not in SCOPES:
        raise ValueError(f"prune.magnitude: scope={scope!r} must be one of {SCOPES}.")
    if every < 1:
        raise ValueError(f"prune.magnitude: every={every} must be at least 1.")
    for first, second in itertools.pairwise(ramps):
        if second.begin < first.end or second.initial < first.final:
            raise ValueError(
                f"prune.magnitude: the ramp from {second.initial} to {second.final} at "
                f"steps ({second.begin}, {second.end}) must come after the ramp to "
                f"{first.final} and not below it: pruned weights do not come back."
            )


def _num_rows(site: Site) -> int:
    leading = site.stacked == tuple(range(len(site.stacked)))
    return math.prod(site.weight_shape[a] for a in site.stacked) if leading else 1


def _count(ramps: tuple[Ramp, ...], step: Array, total: int) -> Array:
    """How many of `total` weights are pruned at `step`."""
    count = ramps[0].whole(step, total)
    for later in ramps[1:]:
        count = jnp.where(step > later.begin, later.whole(step, total), count)
        count = jnp.where(step >= later.end, later.whole(step, total), count)
    return count


def _is_due(ramps: tuple[Ramp, ...], step: Array, every: int) -> Array:
    """During a ramp every so many steps, and at its end always."""
    due = [
        ((step > r.begin) & (step < r.end) & ((step - r.begin) % every == 0))
        | (step == r.end)
        for r in ramps
    ]
    return jnp.any(jnp.stack(due))


def _keep_rows(score: Array, rows: int, count: Any) -> Array:
    flat = score.reshape(rows, -1)
    return keep_largest_per_row(flat, count(flat.shape[1])).reshape(score.shape)


def _values(leaf: Any) -> Any:
    return leaf.qvalue if isinstance(leaf, Quantized) else leaf


def _check_masks(
    memory: MagnitudeState, params: PyTree, seen: PyTree, step: Any
) -> list[str]:
    """Whatever acts after pruning, pruned weights are seen as zero."""
    paths, leaves, _ = flatten_parameters(seen)
    values = dict(zip(paths, map(_values, leaves), strict=True))
    problems = []
    for path, mask in memory.masks.items():
        revived = np.count_nonzero(np.asarray(values[path])[~np.asarray(mask)])
        if revived:
            problems.append(
                f'prune.magnitude "{path}": {revived} pruned weights are not zero at '
                f"step {step}. A transform after it changed them."
            )
    return problems
