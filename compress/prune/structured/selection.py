"""Chooses the units that go while training: under jit, in one compilation.

Like `choose` on the host, with two differences that keep it one sort: what a step of
units saves is linearised at the sizes of now, and the budget is met in float32. The
boundary to the shrunk model solves the rest exactly, among the units still there.
"""

import itertools
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compress.annotations import Array, Float, Int
from compress.prune.select import keep_largest, keep_largest_per_row
from compress.prune.structured.members import UnitArray, UnitMask, depth_of
from compress.prune.structured.normalise import normalise
from compress.prune.structured.settings import Problem, Settings


class Steps(NamedTuple):
    """Every step that any group may take, in one array.

    Attributes:
      group: `[steps]`, the position of its group.
      gone: `[steps]`, how many units of the group are gone after it.
      before: `[steps]`, and before it.
    """

    group: np.ndarray
    gone: np.ndarray
    before: np.ndarray


def steps_of(problem: Problem) -> Steps:
    """The steps of all groups, one group after the other."""
    pairs = [
        (index, after, before)
        for index, steps in enumerate(problem.steps)
        for before, after in itertools.pairwise(steps)
    ]
    group, gone, before = np.array(pairs).reshape(-1, 3).T
    return Steps(group, gone.astype(np.float32), before.astype(np.float32))


def select(
    settings: Settings,
    problem: Problem,
    scores: Mapping[str, UnitArray],
    alive: Mapping[str, UnitMask],
    progress: Float[Array, ""],
    num_layers: Int[Array, ""],
) -> dict[str, UnitMask]:
    """The units that are kept now; none comes back.

    Args:
      settings: How groups are compared.
      problem: The budget at the end.
      scores: By group.
      alive: By group, what is kept so far.
      progress: How far the way to the budget is gone, 0 to 1.
      num_layers: How many layers are dropped now, in all.
    """
    comparable = normalise(scores, alive, problem.scored, settings.normalize, jnp)
    kept = {
        depth.name: _fewer(comparable[depth.name], alive[depth.name], num_layers)
        for depth in problem.depths
    }
    if not problem.units:
        return kept
    removed = _removed(problem, alive, num_layers)
    steps = steps_of(problem)
    priority = _priorities(settings, problem, steps, comparable, alive, kept, removed)
    target = 1.0 - progress * (1.0 - problem.target)
    removed = _until_met(problem, steps, priority, removed, target)
    for index, group in enumerate(problem.units):
        count = removed[index].astype(jnp.int32)
        kept[group.name] = _fewer(comparable[group.name], alive[group.name], count)
    return kept


def cost_left(problem: Problem, alive: Mapping[str, UnitMask]) -> Float[Array, ""]:
    """The fraction of the budgeted cost that the masks leave."""
    removed = _removed(problem, alive, None)
    return (problem.cost.value(removed, jnp) / problem.cost.whole).astype(jnp.float32)


def _fewer(score: UnitArray, alive: UnitMask, count: Int[Array, ""]) -> UnitMask:
    """Without the least of the units; those that are gone already go first."""
    ranked = jnp.where(alive, score, -1.0)
    keep = keep_largest if ranked.ndim == 1 else keep_largest_per_row
    return alive & keep(ranked, count)


def _removed(
    problem: Problem, alive: Mapping[str, UnitMask], num_layers: Array | None
) -> Float[Array, "groups"]:
    """How many units each group has lost; every layer has lost as many."""
    counts = [_count(alive[group.name]) for group in problem.units]
    layers = [
        _count(alive[depth.name]) if num_layers is None else num_layers
        for depth in problem.depths
    ]
    return jnp.stack([*counts, *layers]).astype(jnp.float32)


def _count(alive: UnitMask) -> Int[Array, ""]:
    return jnp.sum(~alive.reshape(-1, alive.shape[-1])[0], dtype=jnp.int32)


def _priorities(
    settings: Settings,
    problem: Problem,
    steps: Steps,
    scores: Mapping[str, UnitArray],
    alive: Mapping[str, UnitMask],
    layers: Mapping[str, UnitMask],
    removed: Float[Array, "groups"],
) -> Float[Array, "steps"]:
    """Importance per saved cost of each step; what is gone is free, so first."""
    if settings.allocation == "uniform":
        sizes = np.array([group.size for group in problem.units], np.float32)
        priority = jnp.asarray(steps.gone / sizes[steps.group])
    else:
        value = partial(problem.cost.value, xp=jnp)
        saving = -jax.grad(value)(removed)[steps.group] / problem.cost.whole
        lost = [
            _lost(problem, index, scores[group.name], alive[group.name], layers)
            for index, group in enumerate(problem.units)
        ]
        per_unit = jnp.concatenate(lost) / (steps.gone - steps.before)
        priority = jnp.where(saving > 0, per_unit / saving, jnp.inf)
    return priority


def _lost(
    problem: Problem,
    index: int,
    score: UnitArray,
    alive: UnitMask,
    layers: Mapping[str, UnitMask],
) -> Float[Array, "steps"]:
    """The importance that each step of one group loses, over all its layers."""
    group = problem.units[index]
    rows = jnp.where(alive, score, -1.0).reshape(-1, group.size)
    ordered = jnp.maximum(jnp.sort(rows, axis=-1), 0.0)
    depth = depth_of(group, problem.depths)
    if depth is not None:
        ordered = jnp.where(layers[depth.name][:, None], ordered, 0.0)
    sums = jnp.concatenate([jnp.zeros((1,)), jnp.cumsum(ordered.sum(axis=0))])
    bounds = np.array(problem.steps[index])
    return sums[bounds[1:]] - sums[bounds[:-1]]


def _until_met(
    problem: Problem,
    steps: Steps,
    priority: Float[Array, "steps"],
    removed: Float[Array, "groups"],
    target: Float[Array, ""],
) -> Float[Array, "groups"]:
    """Units gone when the first so many steps are taken, as few as meet the target."""
    order = jnp.argsort(priority, stable=True)
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(order.size))
    num_groups = len(problem.scored)

    def gone_after(count: Array) -> Float[Array, "groups"]:
        taken = jnp.where(rank < count, steps.gone, 0.0)
        return jnp.maximum(
            removed, jax.ops.segment_max(taken, steps.group, num_segments=num_groups)
        )

    def halve(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        left = problem.cost.value(gone_after(middle), jnp) / problem.cost.whole
        # float32 may miss an exact hit; the boundary counts exactly.
        met = left <= target + 1e-6
        return jnp.where(met, low, middle + 1), jnp.where(met, middle, high)

    # What saves nothing is never taken.
    most = jnp.sum(jnp.isfinite(priority), dtype=jnp.int32)
    rounds = max(int(order.size).bit_length(), 1)
    _, count = jax.lax.fori_loop(0, rounds + 1, halve, (jnp.zeros_like(most), most))
    return gone_after(count)
