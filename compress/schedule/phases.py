"""Phases: the stages that one compiled train step serves.

Shapes change only where a stage has removed units; weights change between two steps
only where a stage prunes with a score that looks at inputs. Each starts a phase.
"""

from typing import NamedTuple

from compress.config import Config, Prune, Shrink
from compress.config.pruning import FROM_INPUTS


class Phase(NamedTuple):
    """Consecutive stages between two boundaries.

    Attributes:
      index: Counts from 0.
      stages: Names of its stages; none before what is pruned at the very start, and
        after what is removed at the very end.
      start: Updates done before its first one.
      end: Updates done after its last one.
      prunes: What is pruned, from calibration inputs, before its first step.
      shrinks: What is masked in its last stage, and removed after its last step.
      shrink_start: The step at which that stage starts.
    """

    index: int
    stages: tuple[str, ...]
    start: int
    end: int
    prunes: Prune | None = None
    shrinks: Shrink | None = None
    shrink_start: int = 0


def prunes_from_inputs(prune: Prune | None) -> bool:
    """Whether a setting prunes once, between two steps, from inputs of the sites."""
    return prune is not None and prune.score in FROM_INPUTS


def stage_starts(config: Config) -> list[int]:
    """The step at which each stage starts, and at last the step at which all end."""
    starts = [0]
    for stage in config.stages:
        starts.append(starts[-1] + stage.steps)
    return starts


def split_phases(config: Config) -> list[Phase]:
    """The phases of a schedule, at least one; the last one ends with the schedule."""
    starts, phases = stage_starts(config), [Phase(0, (), 0, 0)]
    for start, stage in zip(starts, config.stages):
        current = phases[-1]
        if prunes_from_inputs(stage.prune):
            if current.stages or current.index == 0:
                current = _after(phases)
            current = current._replace(prunes=stage.prune)
        names, end = (*current.stages, stage.name), start + stage.steps
        current = current._replace(stages=names, end=end)
        if stage.shrink is not None:
            current = current._replace(shrinks=stage.shrink, shrink_start=start)
        phases[-1] = current
        if stage.shrink is not None:
            _after(phases)
    return phases


def _after(phases: list[Phase]) -> Phase:
    """Appends an empty phase that starts where the last one ends."""
    last = phases[-1]
    phases.append(Phase(last.index + 1, (), last.end, last.end))
    return phases[-1]


def phase_of(phases: list[Phase], step: int) -> Phase:
    """The phase whose train step made update `step`; the first one for step 0."""
    for phase in phases:
        if step <= phase.end:
            return phase
    raise ValueError(
        f"step {step} is after the schedule, which ends at {phases[-1].end}."
    )
