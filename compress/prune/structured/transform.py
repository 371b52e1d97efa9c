"""Structured pruning: whole units go, masked while training, then physically.

Source of the iterative schedule: Molchanov et al. 2017, section 2 (prune a little,
train, repeat), https://arxiv.org/abs/1611.06440. Unlike there, the units are masked in
one compiled program, and removed once, at the end, by `compress.shrink`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from compress.annotations import Array, PyTree
from compress.prune.structured.budgets import Choice, choose
from compress.prune.structured.costs import Cost
from compress.prune.structured.inputs import join_inputs
from compress.prune.structured.members import (
    UnitMask,
    find_revived,
    masked_units,
    unit_shape,
)
from compress.prune.structured.scores import (
    GRADIENT_SCORES,
    Evidence,
    Source,
    add_gradients,
    add_inputs,
    empty_evidence,
    find_source,
    observe_site,
    scores_of,
)
from compress.prune.structured.selection import cost_left, select
from compress.prune.structured.settings import USER, Problem, Settings, pose
from compress.sites import Groups, Site, Sites
from compress.transform import Ramp, Transform, Update, ramp


class StructuredState(NamedTuple):
    """What structured pruning remembers.

    Attributes:
      alive: By group that may lose units, True where the unit is kept.
      evidence: What the score has learnt from data.
      readers: The sites that are observed.
    """

    alive: dict[str, UnitMask]
    evidence: Evidence
    readers: "Readers"


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Readers:
    """The sites whose inputs a score observes; part of the structure of the state."""

    sites: tuple[Site, ...]


def structured(
    groups: Groups,
    *,
    budget: Mapping[str, float],
    score: str = "l2",
    normalize: str = "mean",
    round_to: int = 8,
    min_units: int = 1,
    names: str | Sequence[str] = "**",
    exclude: str | Sequence[str] = (),
    allocation: str = "global",
    drop_layers: int = 0,
    bops: Cost | None = None,
    when: Ramp | int = 0,
    every: int = 1,
    decay: float = 0.9,
) -> Transform:
    """Removes whole units until a budget is met, with masks, inside one compilation.

    The masked model computes what the shrunk one will. When the schedule is over,
    `kept_units` gives what `compress.shrink` takes: at most a rounding step is left to
    do then, and no unit that was removed comes back.

    Args:
      groups: From `compress.find_groups`, of the function that is trained.
      budget: Of `parameters`, `macs` or `bops`, the fraction to be left. For a latency
        see `choose_units`.
      score: `l1` or `l2`, norms of the weights; `taylor` or `fisher`, from gradients;
        `activation`, readers' weights times the size of what they read.
      normalize: See `choose_units`, as for the following ones.
      round_to: Widths are multiples of this.
      min_units: Every group keeps at least as many.
      names: Patterns of the groups that may lose units.
      exclude: Likewise, of those that may not.
      allocation: `global` or `uniform`.
      drop_layers: How many layers each residual scan loses.
      bops: What counts bit operations; from `bops_of`.
      when: How far the way to the budget is gone, a ramp from 0 to 1; a step makes it
        one-shot (0: before the first step).
      every: Steps between updates of the masks during a ramp.
      decay: Of the moving averages of what scores learn from data.

    Raises:
      ValueError: If a setting is out of range, a pattern matches nothing or a frozen
        group, or the budget cannot be met.
    """
    settings = Settings(
        groups,
        budget,
        score,
        normalize,
        round_to,
        min_units,
        names,
        exclude,
        allocation,
        drop_layers,
        bops,
    )
    progress = when if isinstance(when, Ramp) else ramp(0.0, 1.0, steps=(when, when))
    problem = pose(settings)
    _check_schedule(score, progress, every, decay)
    pruner = _Pruner(settings, problem, progress, every, decay)
    observes = score == "activation"
    return Transform(
        name=USER,
        init=partial(_init, pruner),
        parameters=partial(_parameters, pruner),
        operands=partial(_operands, pruner) if observes else None,
        join=join_inputs if observes else None,
        update=partial(_update, pruner),
        calibrate=partial(_calibrate, pruner) if observes else None,
        metrics=partial(_metrics, pruner),
        check=partial(_check, pruner),
        plan=partial(_plan, pruner),
        provides=frozenset({"mask"}),
        preserves=frozenset({"mask"}),
    )


def kept_units(
    groups: Groups,
    params: PyTree,
    state: Any,
    *,
    budget: Mapping[str, float],
    score: str = "l2",
    normalize: str = "mean",
    round_to: int = 8,
    min_units: int = 1,
    names: str | Sequence[str] = "**",
    exclude: str | Sequence[str] = (),
    allocation: str = "global",
    drop_layers: int = 0,
    bops: Cost | None = None,
) -> Choice:
    """The boundary: what `compress.shrink` keeps after training with `structured`.

    Only units that the masks still keep; where the budget is not met yet, because the
    schedule is not over or float32 missed it by a step, the rest goes exactly as
    `choose_units` does it.

    Args:
      groups: What was given to `structured`, as all others but these two.
      params: After training.
      state: Of the transform, or of a chain that holds it.

    Raises:
      ValueError: If the state is not of `structured` with these groups.
    """
    settings = Settings(
        groups,
        budget,
        score,
        normalize,
        round_to,
        min_units,
        names,
        exclude,
        allocation,
        drop_layers,
        bops,
    )
    memory = find_memory(state)
    source = Source(score, pose(settings).scored, memory.readers.sites)
    _check_same_groups(source, memory)
    scores = jax.jit(lambda p, e: scores_of(source, p, e))(params, memory.evidence)
    return choose(settings, scores, memory.alive)


def find_memory(state: Any) -> StructuredState:
    """The state of `structured` inside that of a chain.

    Raises:
      ValueError: If there is not exactly one.
    """
    is_ours = lambda node: isinstance(node, StructuredState)  # noqa: E731
    found = [x for x in jax.tree.leaves(state, is_leaf=is_ours) if is_ours(x)]
    if len(found) != 1:
        raise ValueError(
            f"{USER}: the state holds {len(found)} states of prune.structured. Give "
            "that of a transform with exactly one."
        )
    return found[0]


class _Pruner(NamedTuple):
    """What `structured` was asked to do, and when."""

    settings: Settings
    problem: Problem
    progress: Ramp
    every: int
    decay: float

    def source(self, memory: StructuredState) -> Source:
        """Where the scores come from."""
        score = self.settings.score
        return Source(score, self.problem.scored, memory.readers.sites)

    def selected(
        self, memory: StructuredState, params: PyTree, step: Array
    ) -> dict[str, UnitMask]:
        """The units that are kept from this step on."""
        scores = scores_of(self.source(memory), params, memory.evidence)
        num_layers = self.progress.whole(step, self.problem.drop_layers)
        progress = self.progress(step)
        return select(
            self.settings, self.problem, scores, memory.alive, progress, num_layers
        )


def _init(pruner: _Pruner, params: PyTree, sites: Sites) -> StructuredState:
    scored = pruner.problem.scored
    source = find_source(pruner.settings.score, scored, sites)
    alive = {group.name: jnp.ones(unit_shape(group), bool) for group in scored}
    state = StructuredState(alive, empty_evidence(source), Readers(source.sites))
    if pruner.progress.end > 0:
        return state
    start = jnp.zeros((), jnp.int32)
    return state._replace(alive=jax.jit(pruner.selected)(state, params, start))


def _parameters(
    pruner: _Pruner, memory: StructuredState, params: PyTree, step: Array
) -> PyTree:
    return masked_units(params, pruner.problem.scored, memory.alive)


def _operands(
    pruner: _Pruner, site: Site, given: Any, step: Array, operands: Sequence[Any]
) -> tuple[Any, Any]:
    return operands, observe_site(site, pruner.problem.scored, operands)


def _update(pruner: _Pruner, memory: StructuredState, what: Update) -> StructuredState:
    evidence = memory.evidence
    if pruner.settings.score in GRADIENT_SCORES:
        if what.grads is None:
            raise ValueError(
                f"{USER}: score={pruner.settings.score!r} needs gradients. Give grads "
                'to compress.update, or take score="l2".'
            )
        evidence = add_gradients(
            pruner.source(memory), evidence, what.params, what.grads, pruner.decay
        )
    evidence = add_inputs(evidence, what.observed, pruner.decay)
    memory = memory._replace(evidence=evidence)
    alive = jax.lax.cond(
        _is_due(pruner.progress, what.step, pruner.every),
        lambda: pruner.selected(memory, what.params, what.step),
        lambda: memory.alive,
    )
    return memory._replace(alive=alive)


def _calibrate(pruner: _Pruner, memory: StructuredState, observed: Any) -> Any:
    evidence = add_inputs(memory.evidence, observed, pruner.decay)
    return memory._replace(evidence=evidence)


def _is_due(progress: Ramp, step: Array, every: int) -> Array:
    """During the ramp every so many steps, and at its end always."""
    inside = (step > progress.begin) & (step < progress.end)
    return (inside & ((step - progress.begin) % every == 0)) | (step == progress.end)


def _metrics(pruner: _Pruner, memory: StructuredState, step: Array) -> dict[str, Array]:
    kept = {
        f"units/{name}": jnp.mean(alive.astype(jnp.float32))
        for name, alive in memory.alive.items()
    }
    total = sum(alive.size for alive in memory.alive.values())
    counts = [jnp.sum(a, dtype=jnp.int32) for a in memory.alive.values()]
    units = (jnp.sum(jnp.stack(counts)) / total).astype(jnp.float32)
    left = cost_left(pruner.problem, memory.alive)
    return {"units": units, f"{pruner.problem.kind}_left": left, **kept}


def _check(
    pruner: _Pruner, memory: StructuredState, params: PyTree, seen: PyTree, step: Any
) -> list[str]:
    """Whatever acts after pruning, removed units are seen as zero."""
    revived = find_revived(seen, pruner.problem.scored, memory.alive)
    return [
        f'{USER} "{name}": {count} weights of removed units are not zero at step '
        f"{step}. A transform after it changed them."
        for name, count in revived.items()
    ]


def _plan(pruner: _Pruner, sites: Sites) -> dict[str, str]:
    problem = pruner.problem
    plans: dict[str, list[str]] = {}
    by_path = sites.by_path()
    for group, steps in zip(problem.units, problem.steps, strict=True):
        least = group.size - steps[-1]
        for path in sorted({member.path for member in group.members} & set(by_path)):
            text = f"{group.name}: {group.size} to {least} units"
            plans.setdefault(path, []).append(text)
    together = f"all together until {problem.target:.0%} of the {problem.kind} are left"
    return {
        site.name: f"{', '.join(texts)}; {together}"
        for path, texts in plans.items()
        for site in by_path[path]
    }


def _check_schedule(score: str, progress: Ramp, every: int, decay: float) -> None:
    if (progress.initial, progress.final) != (0.0, 1.0):
        raise ValueError(
            f"{USER}: when goes from {progress.initial} to {progress.final}, but it is "
            "how far the way to the budget is gone. Give a ramp from 0.0 to 1.0."
        )
    if every < 1:
        raise ValueError(f"{USER}: every={every} must be at least 1.")
    if not 0.0 < decay < 1.0:
        raise ValueError(f"{USER}: decay={decay} must be between 0 and 1.")
    if progress.end == 0 and score not in ("l1", "l2"):
        raise ValueError(
            f"{USER}: score={score!r} learns from data, and before the first step "
            "there is none. Let when start at a step of at least 1, or choose with "
            "unit_scores and choose_units."
        )


def _check_same_groups(source: Source, memory: StructuredState) -> None:
    found = {group.name: unit_shape(group) for group in source.groups}
    known = {name: tuple(alive.shape) for name, alive in memory.alive.items()}
    if found != known:
        different = sorted(set(found.items()) ^ set(known.items()))[:3]
        raise ValueError(
            f"{USER}: the state is of other groups or settings; they differ in "
            f"{different}. Give what was given to structured."
        )
