"""A comparison of seconds."""

from typing import Any

import numpy as np

import compress
from compress.config import Config, parse_config, row_config
from tests import tiny

SETTINGS: dict[str, Any] = {
    "name": "tiny",
    # Whoever loads the task without its arguments fails.
    "task": "tests.tiny:sized",
    "data": {"examples": 70},
    "batch_size": 16,
    "log_every": 10,
    "stages": [
        {"name": "fit", "steps": 10, "learning_rate": 0.02},
        {
            "name": "thin",
            "steps": 10,
            "learning_rate": 0.01,
            "prune": {"sparsity": 0.5, "every": 2},
        },
    ],
    "export": {"quantize": {"batches": 2}, "platforms": ["cpu"]},
}
ROWS = [{"name": "float"}, {"name": "P + PTQ", "use": ["prune", "ptq"]}]


def comparison(rows: Any = ROWS, seeds: Any = (0,), **changes: Any) -> Config:
    compare = {"rows": list(rows)}
    return parse_config(
        {**SETTINGS, "compare": compare, "seeds": list(seeds), **changes}
    )


def one_number(examples: int = 70) -> compress.Task:
    """The tiny task, with one number per example instead of the scores of classes."""
    task = tiny.task(examples)

    def build(*args: Any, **settings: Any) -> compress.Model:
        model = tiny.build(*args, **settings)

        def forward(*args: Any, **settings: Any) -> Any:
            scores, state = model.forward(*args, **settings)
            return scores.sum(-1), state

        return model._replace(forward=forward)

    def square(outputs: Any, batch: Any) -> Any:
        return (outputs - batch["y"].astype("float32")) ** 2

    return task._replace(
        build=build,
        loss=lambda outputs, batch: square(outputs, batch).mean(),
        correct=None,
        metric=compress.Metric(square, "squared error", "", 1.0, False),
        extra_metrics={"largest": lambda outputs, batch: abs(outputs)},
        classifies=False,
    )


def row(index: int, **changes: Any) -> Config:
    config = comparison(**changes)
    assert config.compare is not None
    return row_config(config, config.compare.rows[index])


def unreadable(examples: int = 70) -> compress.Task:
    """The tiny task with a billion examples, each the same one, and that is NaN."""
    task = tiny.task(examples)
    x = np.broadcast_to(np.float32("nan"), (10**9, 5))
    y = np.broadcast_to(np.int32(0), (10**9,))
    return task._replace(train={"x": x, "y": y})
