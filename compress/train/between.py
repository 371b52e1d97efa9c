"""What a run does between two chunks: reads metrics, names the stage, keeps time."""

import pathlib
from collections.abc import Mapping

import numpy as np

from compress.config import Config
from compress.schedule import stage_starts
from compress.train.directory import RunError
from compress.train.metrics import read_metrics


def is_due(config: Config, step: int, count: int) -> bool:
    """Whether a multiple of `checkpoint_every` is among the last `count` steps."""
    every = config.checkpoint_every
    return step // every > (step - count) // every


def stage_name(config: Config, step: int) -> str:
    """The stage that a step is in; steps are counted from 0."""
    passed = sum(start <= step for start in stage_starts(config)[:-1])
    return config.stages[passed - 1].name


def seconds_before(directory: pathlib.Path, step: int) -> float:
    """What earlier processes spent on the steps of a run that are not done again."""
    lines = read_metrics(directory / "metrics.jsonl")
    return max([x["seconds"] for x in lines if x["step"] <= step], default=0.0)


def summarized(metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Of a chunk: the mean loss and score, the last of everything else."""
    means = {name: float(metrics[name].mean()) for name in ("loss", "score")}
    return {**{name: float(x[-1]) for name, x in metrics.items()}, **means}


def not_finite(
    config: Config, directory: pathlib.Path, seed: int, step: int, loss: np.ndarray
) -> RunError | None:
    """What to say of a run whose loss stopped being finite.

    Args:
      config: Of the run.
      directory: Of the run.
      seed: Of the run.
      step: The first of a chunk, counted from 0.
      loss: Of its steps.
    """
    bad = np.flatnonzero(~np.isfinite(loss))
    if not bad.size:
        return None
    first = step + int(bad[0])
    return RunError(
        f"{directory}: the loss is not finite at step {first + 1}, in stage "
        f"{stage_name(config, first)!r} of config {config.name!r}, seed {seed}: "
        f"{loss[bad[0]]}. Lower its learning_rate or set optimizer.clip_norm."
    )
