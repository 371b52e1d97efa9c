"""Scores of a trained model, without training: one look at its weights or its data."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compress.annotations import PyTree
from compress.prune.structured.scores import (
    GRADIENT_SCORES,
    SCORES,
    Evidence,
    Source,
    add_gradients,
    add_inputs,
    empty_evidence,
    find_source,
    observe_site,
    scores_of,
)
from compress.prune.structured.settings import USER
from compress.sites import Groups, Sites, find_sites
from compress.transform import State, Transform, check_finite, observe

# The mean of all batches: no batch is forgotten.
_PLAIN_MEAN = 1.0


class UnitScores(NamedTuple):
    """Importance of each unit.

    Attributes:
      values: By name of every group that is not frozen, `[units]` or
        `[layers, units]`.
      records: Groups that were scored otherwise than asked for: `group`, `score` that
        was taken instead, and `reason`.
    """

    values: dict[str, np.ndarray]
    records: tuple[dict[str, str], ...] = ()


def unit_scores(
    groups: Groups,
    params: PyTree,
    score: str = "l2",
    *,
    batches: Iterable[Any] = (),
    loss: Callable[..., Any] | None = None,
    forward: Callable[..., Any] | None = None,
) -> UnitScores:
    """Scores every unit of every group that is not frozen.

    Args:
      groups: From `compress.find_groups`.
      params: Trained.
      score: `l1` or `l2`; `taylor` or `fisher`, which need `loss` and batches;
        `activation`, which needs `forward` and batches.
      batches: Arguments of `loss` or `forward` after the parameters, a tuple each or
        one array; of the training data, 10 to 50 of them.
      loss: `(params, *batch) -> scalar`.
      forward: `(params, *batch) -> outputs`, the function the groups were found in.

    Raises:
      ValueError: If the score is unknown or lacks what it needs, or a parameter is NaN
        or infinite.
    """
    batches = [b if isinstance(b, tuple) else (b,) for b in batches]
    _check(score, len(batches), loss, forward)
    check_finite(params)
    if forward is not None and score == "activation":
        sites = find_sites(forward, params, *batches[0])
    else:
        sites = Sites(())
    source = find_source(score, groups.free, sites)
    evidence = empty_evidence(source)
    if loss is not None and score in GRADIENT_SCORES:
        evidence = _with_gradients(source, evidence, params, batches, loss)
    if forward is not None and score == "activation":
        evidence = _with_inputs(source, evidence, params, batches, forward)
    found = jax.jit(lambda p, e: scores_of(source, p, e))(params, evidence)
    return UnitScores(jax.tree.map(np.asarray, found), fallbacks(source))


def fallbacks(source: Source) -> tuple[dict[str, str], ...]:
    """The groups whose readers cannot be observed."""
    reason = "no site that reads it has inputs that can be told apart by unit"
    return tuple(
        {"group": name, "score": "l2", "reason": reason} for name in source.unobserved()
    )


def _with_gradients(
    source: Source,
    evidence: Evidence,
    params: PyTree,
    batches: Sequence[Any],
    loss: Callable[..., Any],
) -> Evidence:
    @jax.jit
    def add(evidence: Evidence, params: PyTree, *batch: Any) -> Evidence:
        grads = jax.grad(loss)(params, *batch)
        return add_gradients(source, evidence, params, grads, _PLAIN_MEAN)

    for batch in batches:
        evidence = add(evidence, params, *batch)
    return evidence


def _with_inputs(
    source: Source,
    evidence: Evidence,
    params: PyTree,
    batches: Sequence[Any],
    forward: Callable[..., Any],
) -> Evidence:
    watcher = Transform(
        name=f"{USER}.observe",
        init=lambda params, sites: (),
        operands=lambda site, given, step, operands: (
            operands,
            observe_site(site, source.groups, operands),
        ),
    )
    watched = observe(forward, watcher)

    @jax.jit
    def add(evidence: Evidence, params: PyTree, *batch: Any) -> Evidence:
        _, seen = watched(params, State(jnp.zeros((), jnp.int32), ()), *batch)
        return add_inputs(evidence, seen, _PLAIN_MEAN)

    for batch in batches:
        evidence = add(evidence, params, *batch)
    return evidence


def _check(score: str, num_batches: int, loss: Any, forward: Any) -> None:
    if score not in SCORES:
        raise ValueError(f"{USER}: score={score!r} must be one of {SCORES}.")
    needs = {"taylor": "loss", "fisher": "loss", "activation": "forward"}.get(score)
    given = {"loss": loss, "forward": forward}
    if needs and (given[needs] is None or num_batches == 0):
        raise ValueError(
            f"{USER}: score={score!r} learns from data. Give {needs}= and at least one "
            "of batches=."
        )
