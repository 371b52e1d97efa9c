"""How important each unit of a group is.

Each score sums over all weights of the unit, of the sites that write it, those that
read it and the vectors along it, so that it says what removing the unit changes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from compress.annotations import Array, Int, PyTree
from compress.prune.structured.inputs import (
    Inputs,
    empty_inputs,
    input_sizes,
    merge_inputs,
    observable_axes,
    observe_inputs,
)
from compress.prune.structured.members import (
    UnitArray,
    members_by_path,
    unit_shape,
    unit_sums,
)
from compress.sites import Group, Site, Sites, parameter_paths

SCORES = ("l1", "l2", "taylor", "fisher", "activation")
# What is averaged over batches of gradients.
GRADIENT_SCORES = ("taylor", "fisher")


class Evidence(NamedTuple):
    """What a score has learnt from data.

    Attributes:
      means: Scores from gradients, averaged over batches, by group name.
      inputs: What sites read, by site name; for the activation score.
      count: Batches of gradients seen.
    """

    means: dict[str, UnitArray]
    inputs: dict[str, Inputs]
    count: Int[Array, ""]


class Source(NamedTuple):
    """Where the score of each group comes from; decided from the trace.

    Attributes:
      score: Of `SCORES`.
      groups: Those that are scored.
      sites: Whose inputs can be observed; empty where the score needs none.
    """

    score: str
    groups: tuple[Group, ...]
    sites: tuple[Site, ...]

    def unobserved(self) -> tuple[str, ...]:
        """Groups whose readers cannot be observed: they are scored by `l2` instead."""
        if self.score != "activation":
            return ()
        seen = {
            (str(site.path), axis)
            for site in self.sites
            for axis in observable_axes(site, self.groups)
        }
        return tuple(
            group.name
            for group in self.groups
            if not any((m.path, m.axis) in seen and m.reads for m in group.members)
        )


def find_source(score: str, groups: Sequence[Group], sites: Sites) -> Source:
    """The source of a score, with the sites that it has to observe."""
    observed = ()
    if score == "activation":
        observed = tuple(s for s in sites.weighted if observable_axes(s, groups))
    return Source(score, tuple(groups), observed)


def empty_evidence(source: Source) -> Evidence:
    """Before the first batch."""
    gradients = source.groups if source.score in GRADIENT_SCORES else ()
    means = {g.name: jnp.zeros(unit_shape(g), jnp.float32) for g in gradients}
    inputs = {
        site.name: empty_inputs(site, observable_axes(site, source.groups))
        for site in source.sites
    }
    return Evidence(means, inputs, jnp.zeros((), jnp.int32))


def add_gradients(
    source: Source, evidence: Evidence, params: PyTree, grads: PyTree, decay: float
) -> Evidence:
    """After one more batch; the plain mean of the first, then exponential."""
    if source.score not in GRADIENT_SCORES:
        return evidence
    fresh = gradient_scores(source, params, grads)
    count = evidence.count.astype(jnp.float32)
    keep = jnp.minimum(decay, count / (count + 1.0))
    means = {
        name: keep * mean + (1.0 - keep) * fresh[name]
        for name, mean in evidence.means.items()
    }
    return evidence._replace(means=means, count=evidence.count + 1)


def observe_site(site: Site, groups: Sequence[Group], operands: Any) -> Any:
    """What one batch shows of a site; None if it is not observed."""
    axes = observable_axes(site, groups)
    return observe_inputs(site, axes, operands) if axes else None


def add_inputs(
    evidence: Evidence, observed: Mapping[str, Inputs], decay: float
) -> Evidence:
    """After one more batch of activations."""
    merged = {
        name: merge_inputs(evidence.inputs[name], seen, decay)
        for name, seen in observed.items()
    }
    return evidence._replace(inputs={**evidence.inputs, **merged})


def gradient_scores(
    source: Source, params: PyTree, grads: PyTree
) -> dict[str, UnitArray]:
    """Scores of one batch.

    `taylor` is `|sum g w|` over the unit, the change of the loss to first order when
    the whole unit goes: Molchanov et al. 2019, the gradient of a gate at the unit,
    https://arxiv.org/abs/1906.10771, whose square ranks alike within one batch.
    `fisher` is `sum (g w)^2`: the diagonal of the
    empirical Fisher information as the Hessian of Optimal Brain Damage, as in Theis
    et al. 2018, https://arxiv.org/abs/1801.05787, without its factor of one half.
    """
    products = jax.tree.map(
        lambda w, g: w.astype(jnp.float32) * g.astype(jnp.float32), params, grads
    )
    by_path = parameter_paths(products)
    if source.score == "taylor":
        return {g.name: jnp.abs(unit_sums(by_path, g)) for g in source.groups}
    squares = {path: jnp.square(value) for path, value in by_path.items()}
    return {g.name: unit_sums(squares, g) for g in source.groups}


def scores_of(
    source: Source, params: PyTree, evidence: Evidence
) -> dict[str, UnitArray]:
    """The score of every unit, at these parameters.

    `l1` and `l2` are the norms of all weights of the unit (Li et al. 2017 take the
    writer's, https://arxiv.org/abs/1608.08710; Fang et al. 2023 the whole group's,
    https://arxiv.org/abs/2301.12900). `activation` is `sum |w| rms(x)` over the
    readers: Wanda (Sun et al. 2023, https://arxiv.org/abs/2306.11695) by unit.
    """
    if source.score in GRADIENT_SCORES:
        return evidence.means
    by_path = parameter_paths(params)
    if source.score == "activation":
        return _activation_scores(source, by_path, evidence)
    return {g.name: _norm(by_path, g, source.score) for g in source.groups}


def _norm(by_path: Mapping[str, Array], group: Group, score: str) -> UnitArray:
    if score == "l1":
        mine = {p: jnp.abs(by_path[p]) for p in _paths(group, by_path)}
        return unit_sums(mine, group)
    mine = {
        p: jnp.square(by_path[p].astype(jnp.float32)) for p in _paths(group, by_path)
    }
    # Inclusion and exclusion may leave a rounding error below zero.
    return jnp.sqrt(jnp.maximum(unit_sums(mine, group), 0.0))


def _paths(group: Group, by_path: Mapping[str, Array]) -> Sequence[str]:
    return [path for path in members_by_path(group) if path in by_path]


def _activation_scores(
    source: Source, by_path: Mapping[str, Array], evidence: Evidence
) -> dict[str, UnitArray]:
    sizes = input_sizes(evidence.inputs, source.sites)
    unobserved = source.unobserved()
    found = {}
    for group in source.groups:
        if group.name in unobserved:
            found[group.name] = _norm(by_path, group, "l2")
            continue
        total = jnp.zeros(unit_shape(group), jnp.float32)
        for path, members in members_by_path(group).items():
            for member in members:
                if member.reads and (path, member.axis) in sizes:
                    weight = jnp.abs(by_path[path]).astype(jnp.float32)
                    only = group._replace(members=(member,))
                    read = {path: weight * sizes[path, member.axis]}
                    total = total + unit_sums(read, only)
        found[group.name] = total
    return found
