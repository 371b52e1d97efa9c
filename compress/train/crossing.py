"""Crosses from one phase of a run into the next.

Where a phase ends with units to remove, the network becomes smaller, and everything
that follows its parameters with it: optimizer, masks, ranges. Where one starts with
pruning from inputs, its weights change and their masks are fixed from then on. The
teacher stays whole; the step, the key and so the data and learning rates go on.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from compress import processes, prune
from compress.adapters import Model
from compress.annotations import Array, PyTree
from compress.config import Shrink
from compress.schedule import Phase, TrainState, split_phases
from compress.schedule.pruning import prune_from_inputs, unit_settings
from compress.sites import Groups
from compress.train.batches import calibration_batches, training_batches
from compress.train.boundaries import Boundary, Keep
from compress.train.checkpoints import CheckpointError, hash_of
from compress.train.phases import (
    Changed,
    Entered,
    Job,
    Links,
    enter,
    masks_of,
    start,
    without_units,
)
from compress.transform import State


def cross(
    job: Job, entered: Entered, state: TrainState, known: Boundary | None
) -> tuple[Entered, TrainState]:
    """Ends a phase and enters the next one.

    Args:
      job: The run.
      entered: The phase that has ended.
      state: After its last step.
      known: What was decided here before, to be done again; None decides.

    Raises:
      CheckpointError: If what was decided before does not give the same bits again.
    """
    before = hash_of(state)
    if known is not None and known.before != before:
        known = None  # of a run that came here with other numbers
    phase = split_phases(job.config)[entered.phase.index + 1]
    changed = _change(job, entered, phase, state, known)
    after = enter(job, phase, changed.model, masks_of(entered, changed), ())
    new = _carried(job, entered, after, state, changed.take)
    boundary = Boundary(
        step=phase.start,
        before=before,
        after=hash_of(new),
        keep={name: units.tolist() for name, units in changed.keep.items()},
        sizes={g.name: g.size for g in entered.groups.free} if entered.groups else {},
        masks=sorted(changed.masks),
        records=list(changed.records),
    )
    if known is not None and known.after != boundary.after:
        raise CheckpointError(
            f"step {phase.start}: what was decided there does not give the same bits "
            "on this machine. Go on where the run began, or choose another --workdir."
        )
    boundaries = (*entered.boundaries, boundary)
    return after._replace(boundaries=boundaries), new


def cross_together(
    job: Job, entered: Entered, state: TrainState, known: Boundary | None
) -> tuple[Entered, TrainState]:
    """`cross` in every process, as process 0 decides: what is measured may differ."""
    here: list[tuple[Entered, TrainState]] = []

    def decide() -> dict[str, Any]:
        here.append(cross(job, entered, state, known))
        return here[0][0].boundaries[-1]._asdict()

    decided = Boundary(**processes.on_primary(decide))
    return here[0] if here else cross(job, entered, state, decided)


def with_notes(entered: Entered, notes: Sequence[str]) -> Entered:
    """The phase with more to report of the boundary that it was entered by."""
    *before, last = entered.boundaries
    records = [*last.records, *(note for note in notes if note not in last.records)]
    boundaries = (*before, last._replace(records=records))
    return entered._replace(boundaries=boundaries)


def _change(
    job: Job, entered: Entered, phase: Phase, state: TrainState, known: Boundary | None
) -> Changed:
    """Removes units where the last phase asks for it, then prunes from inputs."""
    trained = entered.model._replace(params=state.params, model_state=state.model_state)
    changed = Changed(trained, lambda tree: tree, {}, {}, ())
    if entered.phase.shrinks is not None:
        keep = _chosen(job, entered, trained, state) if known is None else known.kept()
        changed = without_units(entered, changed, keep)
    if phase.prunes is not None:
        model, config = changed.model, job.config
        batches = calibration_batches(config, job.task, job.seed, phase.prunes.batches)
        pruned = prune_from_inputs(phase.prunes, model, batches)
        changed = changed._replace(
            model=model._replace(params=pruned.params),
            masks=pruned.masks,
            records=tuple(map(str, pruned.records)),
        )
    return changed


def _chosen(job: Job, entered: Entered, trained: Model, state: TrainState) -> Keep:
    """The units that are kept: what the masks say, or what is fast enough."""
    setting, groups = entered.phase.shrinks, entered.groups
    assert setting is not None
    assert groups is not None
    settings = unit_settings(setting, entered.bops)
    if setting.budget.latency is None:
        memory = state.compression.memory
        params = state.params
        choice = prune.kept_units(
            groups, params, memory, score=setting.score, **settings
        )
        return choice.keep
    if job.measure is None:
        raise ValueError(
            "shrink: a budget of latency is measured on exported artifacts. Use "
            "`jax-compress run` or `compare`, or give train a measure."
        )
    scores = _unit_scores(job, setting, groups, trained)
    return prune.choose_units(
        groups, scores, measure=job.measure(entered, trained), **settings
    ).keep


def _unit_scores(job: Job, setting: Shrink, groups: Groups, trained: Model) -> Any:
    """What each unit is worth on some batches of training data."""
    predict = trained.predictor()

    def loss(params: PyTree, batch: Any) -> Array:
        return job.task.loss(predict(params, *job.task.inputs_of(batch)), batch)

    rows = training_batches(job.config, job.task, job.seed, setting.batches)
    inputs = [job.task.inputs_of(batch) for batch in rows]
    needs = {"taylor": loss, "fisher": loss}.get(setting.score)
    return prune.unit_scores(
        groups,
        trained.params,
        setting.score,
        batches=[(batch,) for batch in rows] if needs else inputs,
        loss=needs,
        forward=predict,
    ).values


def _carried(
    job: Job,
    old: Entered,
    new: Entered,
    state: TrainState,
    take: Callable[[PyTree], PyTree],
) -> TrainState:
    """The state of the next phase: what it starts with, and what goes on."""
    fresh = start(job, new, state.key)
    before = _by_technique(old.links, state.compression.memory)
    after = _by_technique(new.links, fresh.compression.memory)
    memory = tuple(
        each
        for name, several in after.items()
        for each in _memories(name, several, before[name], take)
    )
    new_state = fresh._replace(
        optimizer=_fitted(fresh.optimizer, state.optimizer, take),
        compression=State(state.compression.step, memory),
    )
    return _checked(fresh, new_state)


def _memories(
    name: str, fresh: list[Any], old: list[Any], take: Callable[[PyTree], PyTree]
) -> list[Any]:
    """What the transforms of one technique remember from before the boundary."""
    if name == "shrink" or len(old) != len(fresh):
        return fresh  # other units to choose from; masks that were not there before
    fitted = [_fitted(new, before, take) for new, before in zip(fresh, old)]
    if name == "quantize":
        # Ranges of dropped layers fit nowhere: what is left of a scan starts anew.
        fitted = [_where_equal(new, each) for new, each in zip(fresh, fitted)]
    return fitted


def _fitted(fresh: PyTree, old: PyTree, take: Callable[[PyTree], PyTree]) -> PyTree:
    """What was remembered, in the structure of what the next phase starts with.

    What has its shapes already stays, such as a teacher like the whole network.
    """
    leaves = jax.tree.leaves(old)
    if _shapes(leaves) != _shapes(jax.tree.leaves(fresh)):
        leaves = jax.tree.leaves(take(old))
    return jax.tree.unflatten(jax.tree.structure(fresh), leaves)


def _where_equal(fresh: PyTree, old: PyTree) -> PyTree:
    """`old`, and `fresh` where the shapes differ."""
    return jax.tree.map(
        lambda new, before: before if before.shape == new.shape else new, fresh, old
    )


def _checked(fresh: TrainState, new: TrainState) -> TrainState:
    """The state, if it is one of the next phase."""
    found, wanted = (_shapes(jax.tree.leaves(state)) for state in (new, fresh))
    if found != wanted:
        wrong = [pair for pair in zip(found, wanted) if pair[0] != pair[1]]
        raise AssertionError(f"a boundary left shapes as they were: {wrong[:3]}")
    return new


def _shapes(leaves: Sequence[Any]) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in leaves]


def _by_technique(links: Links, memory: Sequence[Any]) -> dict[str, list[Any]]:
    """The memories of a chain, by technique."""
    parts = iter(memory)
    return {name: [next(parts) for _ in several] for name, several in links.items()}
