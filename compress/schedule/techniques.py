"""The techniques a config may declare, each turned into one transform over all stages.

In time, a technique acts where the stages say; in the chain, masks come before
fake-quantization, so that what is quantized is what is kept.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from compress import distill, prune, quantize
from compress.annotations import Array, PyTree
from compress.config import NUMBERS, Config, Distill, PostTraining
from compress.schedule import pruning
from compress.schedule.numbers import Whose
from compress.schedule.phases import (
    Phase,
    prunes_from_inputs,
    split_phases,
    stage_starts,
)
from compress.sites import Groups
from compress.transform import Transform, chain

# The teacher as a function of its arrays and the student's inputs.
Teacher = tuple[Callable[..., Any], PyTree]


class Here(NamedTuple):
    """Where in a schedule a chain is for, and what is known there.

    Attributes:
      phase: What the chain serves.
      groups: Of the network as it is in this phase; needed if units are masked in it.
      bops: What counts bit operations there; needed for a budget of them.
      masks: What was pruned from inputs, by path; None before that.
      whose: The numbers of the chain; by default those of the config.
    """

    phase: Phase
    groups: Groups | None = None
    bops: Any = None
    masks: Mapping[str, Array] | None = None
    whose: Whose | None = None


def build_links(
    config: Config, teacher: Teacher | None, here: Here
) -> dict[str, list[Transform]]:
    """The transforms of one phase by technique, in the order of the chain."""
    starts = stage_starts(config)
    return {
        name: build(config, starts, teacher, here) for name, build in TECHNIQUES.items()
    }


def build_transform(
    config: Config, teacher: Teacher | None = None, here: Here | None = None
) -> Transform:
    """One chain for a whole phase; what acts when is a function of the step.

    Args:
      config: The run.
      teacher: `(forward, arrays)`; needed if a stage distills.
      here: The phase; by default the first, which must mask no units.

    Raises:
      ValueError: If stages of one technique differ where they may not.
    """
    here = Here(split_phases(config)[0]) if here is None else here
    links = build_links(config, teacher, here)
    return chain(*(t for several in links.values() for t in several))


def _prune(
    config: Config, starts: Sequence[int], teacher: Any, here: Here
) -> list[Transform]:
    if here.masks is not None:
        return [prune.fixed(here.masks)]
    active = _pruning_stages(config)
    if not active or prunes_from_inputs(active[0][2]):
        return []
    whose = here.whose or Whose([config])
    when = whose.pick(lambda c: pruning.when(_pruning_stages(c)), prune.one_of)
    return [pruning.connections(active[0][2], when)]


def _pruning_stages(config: Config) -> list[pruning.PruningStage]:
    return [
        (start, stage.steps, stage.prune)
        for start, stage in zip(stage_starts(config), config.stages)
        if stage.prune is not None
    ]


def _shrink(
    config: Config, starts: Sequence[int], teacher: Any, here: Here
) -> list[Transform]:
    setting, start = here.phase.shrinks, here.phase.shrink_start
    if setting is None:
        return []
    if here.groups is None:
        raise ValueError(
            f"phase {here.phase.index} of the schedule removes units, but its groups "
            "are not given. Find them with compress.find_groups."
        )
    length = here.phase.end - start
    return pruning.units(setting, start, length, here.groups, here.bops)


def _quantize(
    config: Config, starts: Sequence[int], teacher: Any, here: Here
) -> list[Transform]:
    active = [i for i, stage in enumerate(config.stages) if stage.quantize is not None]
    if not active:
        return []
    setting = config.stages[active[0]].quantize
    assert setting is not None
    assert setting.weights is not None
    last = active[-1]
    start = starts[active[0]] + setting.delay
    freeze = starts[last] + round(setting.freeze * config.stages[last].steps)
    return [
        quantize.fake_quant(
            weights=_weights(here.whose or Whose([config]), active[0]),
            activations=setting.activations,
            sites=setting.sites,
            exclude=setting.exclude,
            steps=(start, freeze),
            observer=setting.observer,
            decay=setting.decay,
        )
    ]


def _weights(whose: Whose, index: int) -> Any:
    """The grid of the weights: by name where all have the same, else its traced width.

    Args:
      whose: The configs.
      index: Of a stage that quantizes.
    """

    def name(config: Config) -> str:
        setting = config.stages[index].quantize
        assert setting is not None
        assert setting.weights is not None
        return setting.weights

    if len({name(config) for config in whose.configs}) == 1:
        return name(whose.configs[0])
    bits = whose.number(lambda config: quantize.WEIGHTS[name(config)])
    return jnp.asarray(bits).astype(jnp.int32)


def _distill(
    config: Config, starts: Sequence[int], teacher: Teacher | None, here: Here
) -> list[Transform]:
    windows: dict[Distill, list[tuple[int, int]]] = {}
    for index, stage in enumerate(config.stages):
        if stage.distill is not None:
            window = (starts[index], starts[index + 1])
            windows.setdefault(stage.distill, []).append(window)
    if not windows:
        return []
    if teacher is None:
        raise ValueError("the schedule distills, but there is no teacher.")
    whose = here.whose or Whose([config])
    return [
        distill.soft_targets(
            teacher, **_numbers(whose, starts.index(steps[0][0])), steps=steps
        )
        for steps in windows.values()
    ]


def _numbers(whose: Whose, index: int) -> dict[str, Any]:
    """Temperature and weights of a stage that distills."""

    def number(name: str) -> Any:
        return whose.number(lambda c: getattr(c.stages[index].distill, name))

    return {name: number(name) for name in NUMBERS["distill"]}


# In the order of the chain: connections, units, and what is quantized comes last.
TECHNIQUES = {
    "prune": _prune,
    "shrink": _shrink,
    "distill": _distill,
    "quantize": _quantize,
}


def post_training(setting: PostTraining) -> Transform:
    """PTQ: quantization that is calibrated after training."""
    assert setting.weights is not None
    return quantize.fake_quant(
        weights=setting.weights,
        activations=setting.activations,
        sites=setting.sites,
        exclude=setting.exclude,
        observer=setting.observer,
    )
