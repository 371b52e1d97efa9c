"""A run as phases: entering the first, crossing into the next, finding one again.

Where a phase ends with units to remove, the network becomes smaller, and everything
that follows its parameters with it: optimizer, masks, ranges. Where one starts with
pruning from inputs, its weights change and their masks are fixed from then on. The
teacher stays whole; the step, the key and so the data and learning rates go on.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from compress import prune
from compress.adapters import Model
from compress.annotations import Array, PyTree
from compress.config import Config, Shrink
from compress.schedule import Here, Phase, TrainState, build_links, init_state
from compress.schedule.phases import phase_of, split_phases
from compress.schedule.pruning import (
    bit_operations,
    foreseen_units,
    paths_to_prune,
    prune_from_inputs,
    unit_settings,
)
from compress.schedule.techniques import Teacher
from compress.sites import Groups, find_groups, find_sites, parameter_paths
from compress.task import Task, build_model, example_inputs
from compress.train.batches import calibration_batches, training_batches
from compress.train.boundaries import Boundary, Keep
from compress.train.checkpoints import CheckpointError, hash_of
from compress.transform import State, Transform, chain

# measure(phase, trained model) -> (keep) -> latency of the exported artifact as a
# fraction of the whole one's
Measure = Callable[["Entered", Model], Callable[[Keep], float]]
Links = dict[str, list[Transform]]


class Job(NamedTuple):
    """What a run is made from.

    Attributes:
      config: Of one run.
      task: Its task.
      teacher: What to distill from, if anything.
      seed: Of everything random.
      measure: For a budget of latency; see `Measure`.
    """

    config: Config
    task: Task
    teacher: Teacher | None
    seed: int
    measure: Measure | None = None

    @property
    def inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The shapes of the model's inputs."""
        return example_inputs(self.task, self.config.batch_size)


class Entered(NamedTuple):
    """A phase, and the network as it is in it.

    Attributes:
      phase: Which.
      model: Its forward has this phase's shapes; its arrays are from where the phase
        was entered.
      links: The transforms, by technique.
      groups: Of units, if some are removed at the end of this phase.
      bops: What counts its bit operations, if the budget does.
      boundaries: Those crossed so far.
    """

    phase: Phase
    model: Model
    links: Links
    groups: Groups | None
    bops: Any
    boundaries: tuple[Boundary, ...]

    @property
    def transform(self) -> Transform:
        """The chain of this phase."""
        return chain(*(t for several in self.links.values() for t in several))


def first_phase(job: Job) -> tuple[Entered, Array]:
    """The first phase, with an untrained model, and the key of the run."""
    init_key, run_key = jax.random.split(jax.random.key(job.seed))
    model = build_model(job.task, job.config.task, job.config.model, init_key)
    phase = split_phases(job.config)[0]
    return _enter(job, phase, model, None, ()), run_key


def with_arrays(entered: Entered, params: PyTree, model_state: PyTree) -> Entered:
    """The same phase with other arrays of its model, such as shapes alone."""
    model = Model(entered.model.forward, params, model_state)
    return entered._replace(model=model)


def foresee(job: Job) -> list[Entered]:
    """Every phase of a run, with some choice of units that meets the budgets.

    Raises:
      ValueError: If a pattern matches nothing, or a budget cannot be met.
    """
    entered, _ = first_phase(job)
    found = [entered]
    for phase in split_phases(job.config)[1:]:
        entered = _again(job, entered, phase, _foreseen(job, entered, phase))
        found.append(entered)
    return found


def _foreseen(job: Job, entered: Entered, phase: Phase) -> Boundary:
    """A boundary as it may turn out."""
    keep, sizes, masks = {}, {}, []
    setting, groups = entered.phase.shrinks, entered.groups
    if setting is not None and groups is not None:
        keep = foreseen_units(setting, groups, entered.bops)
        keep = {name: kept.tolist() for name, kept in keep.items()}
        sizes = {group.name: group.size for group in groups.free}
    if phase.prunes is not None:
        masks = paths_to_prune(phase.prunes, entered.model, job.inputs)
    return Boundary(phase.start, "", "", keep, sizes, masks, [])


def start(job: Job, entered: Entered, key: Array) -> TrainState:
    """The state in which a phase would start with the model as it was entered."""
    return init_state(job.config, job.task, entered.model, entered.transform, key)


def _enter(
    job: Job,
    phase: Phase,
    model: Model,
    masks: Mapping[str, Array] | None,
    boundaries: tuple[Boundary, ...],
) -> Entered:
    groups = bops = None
    if phase.shrinks is not None:
        groups = find_groups(
            model.forward, model.params, *job.inputs, model_state=model.model_state
        )
        if phase.shrinks.budget.bops is not None:
            sites = find_sites(
                model.forward, model.params, model.model_state, *job.inputs
            )
            bops = bit_operations(job.config, groups, sites)
    links = build_links(job.config, job.teacher, Here(phase, groups, bops, masks))
    return Entered(phase, model, links, groups, bops, boundaries)


class _Changed(NamedTuple):
    """What a boundary makes of a network.

    Attributes:
      model: With the arrays it goes on with.
      take: Makes whatever follows its parameters as small.
      keep: Kept units of groups that lost some.
      masks: Of what was pruned from inputs just now.
      records: What the report must say.
    """

    model: Model
    take: Callable[[PyTree], PyTree]
    keep: Keep
    masks: Mapping[str, Array]
    records: tuple[str, ...]


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
        known = None  # of a run that went on from another state
    phase = split_phases(job.config)[entered.phase.index + 1]
    changed = _change(job, entered, phase, state, known)
    after = _enter(job, phase, changed.model, _masks(job, entered, changed), ())
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


def _change(
    job: Job, entered: Entered, phase: Phase, state: TrainState, known: Boundary | None
) -> _Changed:
    """Removes units where the last phase asks for it, then prunes from inputs."""
    trained = entered.model._replace(params=state.params, model_state=state.model_state)
    changed = _Changed(trained, lambda tree: tree, {}, {}, ())
    if entered.phase.shrinks is not None:
        keep = _chosen(job, entered, trained, state) if known is None else known.kept()
        changed = _without_units(job, entered, changed, keep)
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


def _without_units(
    job: Job, entered: Entered, changed: _Changed, keep: Keep
) -> _Changed:
    model = changed.model
    small = prune.shrink(
        model.forward,
        model.params,
        keep,
        *job.inputs,
        groups=entered.groups,
        model_state=model.model_state,
    )
    model = Model(small.forward, small.params, small.model_state)
    return changed._replace(model=model, take=small.take, keep=keep)


def _masks(job: Job, entered: Entered, changed: _Changed) -> Mapping[str, Array] | None:
    """What the next phase keeps masked: just pruned, or pruned earlier.

    Of the earlier ones only shapes matter here: the masks themselves are state.
    """
    if changed.masks:
        return changed.masks
    paths = {path for boundary in entered.boundaries for path in boundary.masks}
    return _all_kept(changed.model, paths) if paths else None


def _all_kept(model: Model, paths: Any) -> dict[str, Array]:
    by_path = parameter_paths(model.params)
    return {path: jnp.ones(by_path[path].shape, bool) for path in sorted(paths)}


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
    return fresh._replace(
        optimizer=_fitted(fresh.optimizer, state.optimizer, take),
        compression=State(state.compression.step, memory),
    )


def _memories(
    name: str, fresh: list[Any], old: list[Any], take: Callable[[PyTree], PyTree]
) -> list[Any]:
    """What the transforms of one technique remember from before the boundary."""
    if name == "shrink" or len(old) != len(fresh):
        return fresh  # other units to choose from; masks that were not there before
    return [_fitted(new, before, take) for new, before in zip(fresh, old, strict=True)]


def _fitted(fresh: PyTree, old: PyTree, take: Callable[[PyTree], PyTree]) -> PyTree:
    """`old` in the shapes of `fresh`.

    What fits as it is stays, such as a teacher that looks like the whole network.
    Ranges of layers that were dropped with others fit nowhere: they are fresh.
    """
    wanted = jax.tree.leaves(fresh)
    leaves = jax.tree.leaves(old)
    if [x.shape for x in leaves] != [x.shape for x in wanted]:
        leaves = jax.tree.leaves(take(old))
    fitting = [
        x if x.shape == new.shape else new
        for x, new in zip(leaves, wanted, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(fresh), fitting)


def _by_technique(links: Links, memory: Sequence[Any]) -> dict[str, list[Any]]:
    """The memories of a chain, by technique."""
    parts = iter(memory)
    return {name: [next(parts) for _ in several] for name, several in links.items()}


def replay(
    job: Job, boundaries: Sequence[Boundary], step: int | None
) -> tuple[Entered, Array]:
    """The phase whose state after `step` updates was saved, and the run's key.

    With None for a step, the last phase.

    Its network has the shapes it had; its values are those of an untrained one.

    Raises:
      CheckpointError: If it is not known what was decided on the way.
    """
    entered, key = first_phase(job)
    phases = split_phases(job.config)
    target = phases[-1] if step is None else phase_of(phases, step)
    if len(boundaries) < target.index:
        raise CheckpointError(
            f"step {target.end} lies after {target.index} boundaries between phases, "
            f"of which {len(boundaries)} are known. Without phases.json the shapes of "
            "the network are not known: choose another --workdir and start again."
        )
    for known, phase in zip(boundaries, phases[1 : target.index + 1]):
        entered = _again(job, entered, phase, known)
    return entered, key


def rebuilt_phase(
    config: Config, task: Task, boundaries: Sequence[Boundary]
) -> Entered:
    """The last phase of a run, untrained and without its teacher.

    The teacher changes nothing at any site.

    Raises:
      CheckpointError: If `boundaries` are not those of the config.
    """
    job = Job(_undistilled(config), task, None, seed=0)
    return replay(job, boundaries, step=None)[0]


def foreseen_phases(config: Config, task: Task) -> list[Entered]:
    """Every phase of a run, before it and without its teacher; see `foresee`."""
    return foresee(Job(_undistilled(config), task, None, seed=0))


def _undistilled(config: Config) -> Config:
    stages = tuple(s.model_copy(update={"distill": None}) for s in config.stages)
    return config.model_copy(update={"stages": stages})


def _again(job: Job, entered: Entered, phase: Phase, known: Boundary) -> Entered:
    changed = _Changed(entered.model, lambda tree: tree, known.kept(), {}, ())
    if known.keep:
        changed = _without_units(job, entered, changed, known.kept())
    boundaries = (*entered.boundaries, known)
    entered = entered._replace(boundaries=boundaries)
    masks = _masks(job, entered, changed)
    return _enter(job, phase, changed.model, masks, boundaries)
