"""Pruning of connections: a score, a pattern, a scope and a time course, in any mix."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp

from compress.annotations import Array, PyTree
from compress.prune.evidence import evidence_of, rounded, served_scores
from compress.prune.masking import apply_masks
from compress.prune.patterns import Pattern, as_pattern
from compress.prune.ranking import Ranking, exchange, parts_of
from compress.prune.scopes import Scope, as_scope, with_shares
from compress.prune.scores import Evidence, Score, as_score, random_like
from compress.prune.state import (
    ConnectionsState,
    Layout,
    check_masks,
    metrics_of,
)
from compress.prune.weights import weight_of
from compress.prune.when import When, gradual
from compress.sites import (
    Site,
    Sites,
    matching_sites,
    parameter_paths,
)
from compress.transform import Ramp, Transform, Update


def connections(
    when: float | Ramp | Sequence[Ramp] | When | None = None,
    *,
    score: str | Score = "magnitude",
    pattern: str | Mapping[str, Sequence[int]] | Pattern = "unstructured",
    scope: str | Mapping[str, float] | Scope | None = None,
    sites: str | Sequence[str] = "**",
    exclude: str | Sequence[str] = (),
    min_kept: int = 1,
) -> Transform:
    """Prunes connections: zeros in weights, as masks.

    Only weights of sites are pruned: biases, norms, embeddings and positions are not,
    unless an embedding is also a site's weight and its exact name is among `sites`.
    The number of zeros is exact. From `when.end` on the masks do not change.
    If a later transform of the chain has put the weights on a grid by the time masks
    are chosen, the weights on the grid are scored; of equal ones, the dense weights.

    Args:
      when: The sparsity (fraction of zeros) over time: a number, at once; ramps, which
        never let a weight come back; or `prune.gradual`, `periodic`,
        `straight_through`, `cyclic`, `rigl`, `sparse_evolution`. May be left out if
        the pattern or an explicit scope gives the sparsity.
      score: `magnitude`, `saliency`, `movement`, `random`, or a `Score`.
      pattern: `unstructured`, `N:M`, `{"block": [rows, columns]}`, `channel`, `row`.
        Sparsity counts units of the pattern: blocks, channels.
      scope: `global`, `normalized`, `uniform`, `erk`, or {glob: sparsity}; N:M is
        always uniform. By default global.
      sites: Patterns; see `compress.sites.matching_sites`.
      exclude: Likewise, of sites that stay dense.
      min_kept: Units that each layer keeps at least, so that none dies. In a global
        scope others are pruned in their place.

    Raises:
      ValueError: If a setting is out of range, or two do not go together.
    """
    user = "prune.connections"
    found = as_pattern(pattern)
    usual = "uniform" if found.kept else "global"
    chosen = as_scope(usual if scope is None else scope, user)
    schedule = _as_when(when, found, chosen, user)
    settings = _Settings(
        user, schedule, as_score(score, user), found, chosen, sites, exclude, min_kept
    )
    _check_settings(settings)
    return _transform(settings)


def magnitude(
    sparsity: float | Ramp | Sequence[Ramp],
    *,
    sites: str | Sequence[str] = "**",
    exclude: str | Sequence[str] = (),
    scope: str = "global",
    every: int = 1,
) -> Transform:
    """Prunes the weights of smallest magnitude, unstructured, for good.

    The simple spelling of `connections`, where a layer may lose all its weights.

    Source: Zhu and Gupta 2017, https://arxiv.org/abs/1710.01878.

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
    user, simple = "prune.magnitude", ("global", "uniform")
    when = gradual(sparsity, every=every, user=user)
    if scope not in simple:
        raise ValueError(f"{user}: scope={scope!r} must be one of {simple}.")
    score, pattern = as_score("magnitude", user), as_pattern("unstructured")
    chosen = as_scope(scope, user)
    return _transform(
        _Settings(user, when, score, pattern, chosen, sites, exclude, min_kept=0)
    )


class _Settings(NamedTuple):
    """The arguments of `connections`."""

    user: str
    when: When
    score: Score
    pattern: Pattern
    scope: Scope
    sites: str | Sequence[str]
    exclude: str | Sequence[str]
    min_kept: int

    @property
    def dense_gradients(self) -> bool:
        """Whether the gradients of pruned weights are wanted."""
        when = self.when
        grows = when.regrow is not None and when.regrow.by == "gradient"
        return grows or when.trains or (when.returns and bool(self.score.needs))

    @property
    def needs(self) -> set[str]:
        """What `compress.update` must be given besides the parameters."""
        return {*self.score.needs, *({"grads"} if self.dense_gradients else ())}

    def choose(self, sites: Sites) -> list[Site]:
        """The sites to prune: embeddings only where they are named exactly."""
        found = matching_sites(sites, self.sites, self.exclude, user=self.user)
        named = {self.sites} if isinstance(self.sites, str) else set(self.sites)
        kept = [s for s in found if s.path not in sites.embeddings or s.name in named]
        if not kept:
            raise ValueError(
                f"{self.user}: only embeddings match. Name them exactly in sites to "
                "prune them."
            )
        return kept

    def layout(self, sites: Sites) -> Layout:
        """The parameters to prune.

        Raises:
          ValueError: If the settings do not fit the model.
        """
        paths = sorted({str(site.path) for site in self.choose(sites)})
        by_path = sites.by_path()
        weights = [weight_of(by_path[path]) for path in paths]
        parts = parts_of(self.pattern, weights, self.user)
        layout = Layout(tuple(with_shares(self.scope, parts, sites, self.user)))
        self.ranking(layout).boundaries()
        return layout

    def ranking(self, layout: Layout) -> Ranking:
        """What decides which connections are kept."""
        return Ranking(
            self.pattern, self.scope, self.when, self.min_kept, self.user, layout.parts
        )


def _transform(settings: _Settings) -> Transform:
    see = partial(_seen, settings.dense_gradients)
    return Transform(
        name=settings.user,
        init=partial(_init, settings),
        parameters=see,
        gradients=partial(_gradients, settings) if settings.dense_gradients else None,
        hold=_hold if settings.when.holds else None,
        update=partial(_update, settings),
        metrics=metrics_of,
        check=partial(check_masks, settings.user),
        plan=partial(_plan, settings),
        provides=frozenset({"mask"}),
        preserves=frozenset({"mask"}),
    )


def _as_when(when: Any, pattern: Pattern, scope: Scope, user: str) -> When:
    if isinstance(when, When):
        return when
    if when is None:
        if pattern.kept:
            kept, of = pattern.kept
            when = 1 - kept / of
        elif scope.shares is not None:
            when = 0.0
        else:
            raise ValueError(f"{user}: there is no sparsity. Give a number or a ramp.")
    return gradual(when, user=user)


def _check_settings(settings: _Settings) -> None:
    user, when, pattern = settings.user, settings.when, settings.pattern
    if settings.min_kept < 0:
        raise ValueError(f"{user}: min_kept={settings.min_kept} must not be negative.")
    if settings.score.needs and when.at_once:
        raise ValueError(
            f"{user}: score={settings.score.name!r} needs gradients, and before the "
            "first step there are none. Let masks be chosen later, as by "
            f"ramp(0.0, {when.final:g}, steps=(1, 1)), or use score='magnitude'."
        )
    if pattern.kept:
        _check_n_m(settings, *pattern.kept)


def _check_n_m(settings: _Settings, kept: int, of: int) -> None:
    user, final = settings.user, settings.when.final
    name = settings.pattern.name
    if settings.scope.name != "uniform":
        raise ValueError(
            f"{user}: scope={settings.scope.name!r} has no meaning for pattern "
            f'"{name}", which keeps {kept} in every group. Leave scope out.'
        )
    if abs(final - (1 - kept / of)) > 0.005:
        raise ValueError(
            f'{user}: pattern "{name}" is a sparsity of {1 - kept / of:.4g}, not '
            f"{final:g}. Give that, or leave the sparsity out."
        )
    if settings.when.regrow is not None:
        raise ValueError(
            f"{settings.when.name}: groups of {of} are too small to exchange a "
            f"fraction of {kept} connections. Use prune.straight_through for pattern "
            f'"{name}".'
        )


def _init(settings: _Settings, params: PyTree, sites: Sites) -> ConnectionsState:
    layout = settings.layout(sites)
    by_path = parameter_paths(params)
    weights = {p.weight.path: by_path[p.weight.path] for p in layout.parts}
    # Like the weights also in how they are sharded.
    masks = {path: jnp.ones_like(w, dtype=bool) for path, w in weights.items()}
    none = jnp.zeros((), jnp.int32)
    state = ConnectionsState(masks, settings.score.init(weights), none, layout)
    if not settings.when.at_once:
        return state
    chosen = _choose(settings, state, Evidence(weights), jnp.zeros((), jnp.int32))
    placed = {path: _placed(mask, masks[path]) for path, mask in chosen.masks.items()}
    return chosen._replace(masks=placed)


def _placed(mask: Array, like: Array) -> Array:
    """The mask where `like` is, when that is known."""
    # Committed to a device only if it must be: a step is compiled for that, too.
    if isinstance(mask, jax.core.Tracer) or mask.sharding == like.sharding:
        return mask
    return jax.device_put(mask, like.sharding)


def _seen(straight_through: bool, memory: Any, params: PyTree, step: Array) -> PyTree:
    return apply_masks(params, memory.masks, straight_through=straight_through)


def _gradients(
    settings: _Settings, memory: ConnectionsState, grads: PyTree, step: Array
) -> PyTree:
    """Only kept weights are trained, unless the schedule trains all for now."""
    masks = memory.masks
    if settings.when.trains:
        still = step < settings.when.end
        masks = {path: mask | still for path, mask in masks.items()}
    return apply_masks(grads, masks)


def _hold(memory: ConnectionsState, leaves: Any, step: Array) -> Any:
    """Pruned weights and their moments stay zero: whatever comes back starts there."""
    return apply_masks(leaves, memory.masks)


def _update(
    settings: _Settings, memory: ConnectionsState, what: Update
) -> ConnectionsState:
    evidence = _evidence(settings, memory, what)
    if settings.score.update is not None:
        score = settings.score.update(memory.score, evidence)
        memory = memory._replace(score=score)

    def choose() -> ConnectionsState:
        served = rounded(what)
        on_grid = None if served is None else _evidence(settings, memory, served)
        return _choose(settings, memory, evidence, what.step, on_grid)

    return jax.lax.cond(settings.when.due(what.step), choose, lambda: memory)


def _evidence(settings: _Settings, memory: ConnectionsState, what: Update) -> Evidence:
    user = f"{settings.user}: score={settings.score.name!r} with {settings.when.name}"
    return evidence_of(what, tuple(memory.masks), settings.needs, user)


def _choose(
    settings: _Settings,
    memory: ConnectionsState,
    evidence: Evidence,
    step: Array,
    on_grid: Evidence | None = None,
) -> ConnectionsState:
    """New masks, by the schedule."""
    ranking, when = settings.ranking(memory.layout), settings.when
    scores = served_scores(settings.score, memory.score, evidence, on_grid)
    num_nan = sum(jnp.sum(jnp.isnan(x), dtype=jnp.int32) for x in scores.values())
    rank = partial(_ranked, ranking, memory, scores, step)
    if when.regrow is not None:
        swap = partial(_exchanged, settings, ranking, memory, scores, evidence, step)
        first = step <= when.ramps[0].begin
        masks = rank() if evidence.grads is None else jax.lax.cond(first, rank, swap)
    elif when.dense is not None:
        everything = jax.tree.map(jnp.ones_like, memory.masks)
        masks = jax.lax.cond(when.dense(step), lambda: everything, rank)
    else:
        masks = rank()
    return memory._replace(masks=masks, num_nan=memory.num_nan + num_nan)


def _ranked(
    ranking: Ranking, memory: ConnectionsState, scores: Mapping[str, Array], step: Array
) -> dict[str, Array]:
    """The best connections; with a monotone schedule, of those kept until now."""
    units = ranking.units(scores)
    if not ranking.when.monotone:
        return ranking.masks(ranking.keep(units, step))
    kept = ranking.masks(ranking.keep(units, step, ranking.kept(memory.masks)))
    return {path: mask & kept[path] for path, mask in memory.masks.items()}


def _exchanged(
    settings: _Settings,
    ranking: Ranking,
    memory: ConnectionsState,
    scores: Mapping[str, Array],
    evidence: Evidence,
    step: Array,
) -> dict[str, Array]:
    """As many connections as before, some of them others."""
    regrow = settings.when.regrow
    assert regrow is not None
    if regrow.by == "gradient":
        assert evidence.grads is not None
        growth = {p: jnp.abs(g.astype(jnp.float32)) for p, g in evidence.grads.items()}
    else:
        key = jax.random.fold_in(jax.random.key(regrow.seed), step)
        growth = {p: random_like(x, key, p) for p, x in scores.items()}
    kept, fraction = ranking.kept(memory.masks), regrow.drop(step)
    units, grown = ranking.units(scores), ranking.units(growth)
    return ranking.masks(
        {p: exchange(kept[p], units[p], grown[p], fraction) for p in kept}
    )


def _plan(settings: _Settings, sites: Sites) -> dict[str, str]:
    layout = settings.layout(sites)
    _, last = settings.ranking(layout).boundaries()[-1]
    texts = {}
    for part in layout.parts:
        share = settings.when.final
        if part.weight.path in last:
            share = float(last[part.weight.path].mean()) / part.size
        text = f"pruned {share:.0%} {settings.scope.text}{_details(settings)}"
        texts |= dict.fromkeys(part.weight.names, text)
    return {site.name: texts[site.name] for site in settings.choose(sites)}


def _details(settings: _Settings) -> str:
    """What of the settings is not the usual."""
    usual = ("magnitude", "unstructured", "prune.connections", "prune.magnitude")
    found = (settings.score.name, settings.pattern.name, settings.when.name)
    return "".join(f", {name}" for name in found if name not in usual)
