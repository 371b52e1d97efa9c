"""The optimizer and its learning rate, by stage."""

from typing import Any

import optax

from compress.config import Config, LearningRate
from compress.schedule.numbers import Whose


def learning_rate(config: Config, whose: Whose | None = None) -> optax.Schedule:
    """The learning rate as a function of the step, stage after stage.

    Args:
      config: The run.
      whose: Its numbers; by default those of the config.
    """
    whose = whose or Whose([config])
    count = len(config.stages)
    schedules = [_in_stage(config, index, whose) for index in range(count)]
    ends, total = [], 0
    for stage in config.stages[:-1]:
        total += stage.steps
        ends.append(total)
    return optax.join_schedules(schedules, ends)


def _in_stage(config: Config, index: int, whose: Whose) -> optax.Schedule:
    rate = config.stages[index].learning_rate
    after = config.stages[index].steps - rate.warmup
    peak, end, share = _numbers(index, whose)
    if rate.schedule == "cosine":
        main = optax.cosine_decay_schedule(peak, after, share)
    elif rate.schedule == "linear":
        main = optax.linear_schedule(peak, end, after)
    else:
        main = optax.constant_schedule(peak)
    if rate.warmup == 0:
        return main
    warmup = optax.linear_schedule(0.0, peak, rate.warmup)
    return optax.join_schedules([warmup, main], [rate.warmup])


def _numbers(index: int, whose: Whose) -> tuple[Any, Any, Any]:
    """Peak, end, and the end as a fraction of the peak."""

    def rate(config: Config) -> LearningRate:
        return config.stages[index].learning_rate

    return (
        whose.number(lambda config: rate(config).peak),
        whose.number(lambda config: rate(config).end),
        whose.number(lambda config: rate(config).end / rate(config).peak),
    )


def build_optimizer(
    config: Config, whose: Whose | None = None
) -> optax.GradientTransformation:
    """The optax optimizer of a config; `whose` as of `learning_rate`."""
    settings, rate = config.optimizer, learning_rate(config, whose)
    if settings.name == "sgd":
        core = [
            optax.add_decayed_weights(settings.weight_decay),
            optax.sgd(rate, momentum=settings.momentum),
        ]
    elif settings.name == "adamw":
        decay = settings.weight_decay
        core = [optax.adamw(rate, b1=settings.momentum, weight_decay=decay)]
    else:
        core = [
            optax.add_decayed_weights(settings.weight_decay),
            optax.adam(rate, b1=settings.momentum),
        ]
    clip = settings.clip_norm
    return optax.chain(*([optax.clip_by_global_norm(clip)] if clip else []), *core)
