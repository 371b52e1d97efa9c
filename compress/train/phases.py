"""A run as phases: entering one, foreseeing all, finding one again."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from compress import prune
from compress.adapters import Model
from compress.annotations import Array, PyTree
from compress.config import Config
from compress.schedule import Here, Phase, TrainState, build_links, init_state
from compress.schedule.phases import phase_of, split_phases
from compress.schedule.pruning import (
    bit_operations,
    foreseen_units,
    paths_to_prune,
)
from compress.schedule.techniques import Teacher
from compress.sites import Groups, find_groups, find_sites, parameter_paths
from compress.task import Task, build_model, example_inputs
from compress.train.boundaries import Boundary, Keep
from compress.train.checkpoints import CheckpointError
from compress.transform import Transform, chain

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


def run_key(job: Job) -> Array:
    """What data order, augmentation and dropout are drawn from."""
    return jax.random.split(jax.random.key(job.seed))[1]


def first_phase(job: Job) -> Entered:
    """The first phase, with an untrained model."""
    init_key = jax.random.split(jax.random.key(job.seed))[0]
    config = job.config
    model = build_model(
        job.task, config.task, config.model, init_key, compute=config.compute
    )
    phase = split_phases(config)[0]
    return enter(job, phase, model, None, ())


def with_arrays(entered: Entered, params: PyTree, model_state: PyTree) -> Entered:
    """The same phase with other arrays of its model, such as shapes alone."""
    model = Model(entered.model.forward, params, model_state)
    return entered._replace(model=model)


def foresee(job: Job) -> list[Entered]:
    """Every phase of a run, with some choice of units that meets the budgets.

    Raises:
      ValueError: If a pattern matches nothing, or a budget cannot be met.
    """
    entered = first_phase(job)
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


def enter(
    job: Job,
    phase: Phase,
    model: Model,
    masks: Mapping[str, Array] | None,
    boundaries: tuple[Boundary, ...],
) -> Entered:
    """A phase with its groups of units, if it removes some, and its transforms."""
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


class Changed(NamedTuple):
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


def without_units(entered: Entered, changed: Changed, keep: Keep) -> Changed:
    """The network with only the kept units of its groups."""
    model = changed.model
    small = prune.shrink(
        model.forward,
        model.params,
        keep,
        groups=entered.groups,
        model_state=model.model_state,
    )
    model = Model(small.forward, small.params, small.model_state)
    return changed._replace(model=model, take=small.take, keep=keep)


def masks_of(entered: Entered, changed: Changed) -> Mapping[str, Array] | None:
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


def replay(job: Job, boundaries: Sequence[Boundary], step: int | None) -> Entered:
    """The phase whose state after `step` updates was saved.

    With None for a step, the last phase.

    Its network has the shapes it had; its values are those of an untrained one.

    Raises:
      CheckpointError: If it is not known what was decided on the way.
    """
    entered = first_phase(job)
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
    return entered


def rebuilt_phase(
    config: Config, task: Task, boundaries: Sequence[Boundary]
) -> Entered:
    """The last phase of a run, untrained and without its teacher.

    The teacher changes nothing at any site.

    Raises:
      CheckpointError: If `boundaries` are not those of the config.
    """
    job = Job(_undistilled(config), task, None, seed=0)
    return replay(job, boundaries, step=None)


def foreseen_phases(config: Config, task: Task) -> list[Entered]:
    """Every phase of a run, before it and without its teacher; see `foresee`."""
    return foresee(Job(_undistilled(config), task, None, seed=0))


def _undistilled(config: Config) -> Config:
    stages = tuple(s.model_copy(update={"distill": None}) for s in config.stages)
    return config.model_copy(update={"stages": stages})


def _again(job: Job, entered: Entered, phase: Phase, known: Boundary) -> Entered:
    changed = Changed(entered.model, lambda tree: tree, known.kept(), {}, ())
    if known.keep:
        changed = without_units(entered, changed, known.kept())
    boundaries = (*entered.boundaries, known)
    entered = entered._replace(boundaries=boundaries)
    masks = masks_of(entered, changed)
    return enter(job, phase, changed.model, masks, boundaries)
