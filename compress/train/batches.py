"""Batches of training data for calibration: drawn at random, never from the test."""

from typing import Any

import numpy as np

from compress.config import Config
from compress.data import Batch, num_examples, rows
from compress.task import Task


def training_batches(config: Config, task: Task, seed: int, count: int) -> list[Batch]:
    """At most `count` batches, with all fields."""
    examples = num_examples(task.train)
    size = config.batch_size
    order = np.random.default_rng(seed).permutation(examples)
    starts = range(0, min(count, examples // size) * size, size)
    return [rows(task.train, order[start : start + size]) for start in starts]


def calibration_batches(
    config: Config, task: Task, seed: int, count: int
) -> list[tuple[Any, ...]]:
    """The model's inputs among them."""
    return [
        task.inputs_of(batch) for batch in training_batches(config, task, seed, count)
    ]
