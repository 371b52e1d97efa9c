"""The techniques a config may declare, each turned into one transform over all stages.

In time, a technique acts where the stages say; in the chain, masks come before
fake-quantization, so that what is quantized is what is kept.
"""

from collections.abc import Callable, Sequence
from typing import Any

from compress import distill, prune, quantize
from compress.annotations import PyTree
from compress.config import Config, Distill, PostTraining, Prune
from compress.transform import Ramp, Transform, chain, ramp

# The teacher as a function of its arrays and the student's inputs.
Teacher = tuple[Callable[..., Any], PyTree]


def stage_starts(config: Config) -> list[int]:
    """The step at which each stage starts, and at last the step at which all end."""
    starts = [0]
    for stage in config.stages:
        starts.append(starts[-1] + stage.steps)
    return starts


def build_transform(config: Config, teacher: Teacher | None = None) -> Transform:
    """One chain for the whole schedule; what acts when is a function of the step.

    Args:
      config: The run.
      teacher: `(forward, arrays)`; needed if a stage distills.

    Raises:
      ValueError: If stages of one technique differ where they may not.
    """
    starts = stage_starts(config)
    return chain(
        *(t for build in TECHNIQUES.values() for t in build(config, starts, teacher))
    )


def _prune(config: Config, starts: Sequence[int], teacher: Any) -> list[Transform]:
    stages = [(s, stage.prune) for s, stage in zip(starts, config.stages)]
    active = [(start, setting) for start, setting in stages if setting is not None]
    if not active:
        return []
    first = active[0][1]
    ramps: list[Ramp] = []
    for start, setting in active:
        length = config.stages[starts.index(start)].steps
        reached = ramps[-1].final if ramps else 0.0
        ramps.append(_ramp(setting, reached, start, length))
    return [
        prune.magnitude(
            ramps,
            sites=first.sites,
            exclude=first.exclude,
            scope=first.scope,
            every=first.every,
        )
    ]


def _ramp(setting: Prune, reached: float, start: int, length: int) -> Ramp:
    if setting.schedule == "one_shot":
        return ramp(reached, setting.sparsity, steps=(start, start))
    end = start + max(round(setting.until * length), 1)
    power = 3.0 if setting.schedule == "cubic" else 1.0
    return ramp(reached, setting.sparsity, steps=(start, end), power=power)


def _quantize(config: Config, starts: Sequence[int], teacher: Any) -> list[Transform]:
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
            weights=setting.weights,
            activations=setting.activations,
            sites=setting.sites,
            exclude=setting.exclude,
            steps=(start, freeze),
            observer=setting.observer,
            decay=setting.decay,
        )
    ]


def _distill(
    config: Config, starts: Sequence[int], teacher: Teacher | None
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
    return [
        distill.soft_targets(
            teacher,
            temperature=setting.temperature,
            soft_weight=setting.soft_weight,
            hard_weight=setting.hard_weight,
            steps=steps,
        )
        for setting, steps in windows.items()
    ]


# In the order of the chain.
TECHNIQUES = {"prune": _prune, "distill": _distill, "quantize": _quantize}


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
