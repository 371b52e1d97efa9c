"""Latency of networks that are not trained yet, or not to the end."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from compress.adapters import Model
from compress.compare.units import latency_of
from compress.config import Config, PostTraining
from compress.data import num_examples, rows
from compress.schedule import post_training
from compress.task import Task
from compress.train import Entered
from compress.transform import Transform


def measure_of(
    config: Config, task: Task
) -> Callable[[Entered, Model], Callable[[Mapping[str, Any]], float]]:
    """What `train` measures choices of units with, for a budget of latency.

    Each is exported in the grid that the config ends with, and timed at its static
    batch against the network that has all units.
    """
    grid, batch = final_grid(config), config.export.static_batch
    wanted = np.arange(batch) % num_examples(task.train)
    inputs = task.inputs_of(rows(task.train, wanted))

    def measure(entered: Entered, model: Model) -> Callable[[Mapping[str, Any]], float]:
        return latency_of(
            model.forward,
            model.params,
            *inputs,
            groups=entered.groups,
            model_state=model.model_state,
            transform=grid,
        )

    return measure


def predicted_latencies(
    config: Config, task: Task, phases: list[Entered]
) -> dict[str, float]:
    """By stage that removes units, the latency after it as a fraction of before.

    Args:
      config: Of one run.
      task: Its task.
      phases: From `foreseen_phases`: untrained, with some choice of units.
    """
    measure = measure_of(config, task)
    return {
        phase.phase.stages[-1]: measure(phase, phase.model)(after.boundaries[-1].kept())
        for phase, after in itertools.pairwise(phases)
        if after.boundaries[-1].keep
    }


def final_grid(config: Config) -> Transform | None:
    """The quantization that a config ends with, as one decided after training."""
    setting = config.export.quantize
    for stage in config.stages:
        if stage.quantize is not None:
            keys = ("weights", "activations", "sites", "exclude")
            grid = {key: getattr(stage.quantize, key) for key in keys}
            setting = PostTraining(**grid)
    return None if setting is None else post_training(setting)
