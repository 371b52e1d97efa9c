"""One tiny run on whatever devices there are; run as a module, it prints what it saw.

It goes through everything that could depend on how arrays are split: distillation,
masks chosen by a global threshold, observed ranges; and units removed at a boundary.
"""

import json
import logging
import os
import pathlib
import signal
import sys
from typing import Any

import jax
import numpy as np

from compress.config import parse_config
from compress.schedule import chunk
from compress.sites import flat_paths
from compress.train import finished, hash_of, train
from compress.train.checkpoints import Checkpoints
from compress.train.checks import untrained_teacher
from tests import tiny

SHRINK = {"budget": {"macs": 0.5}, "round_to": 2, "every": 2}
STAGES = [
    {"name": "fit", "steps": 8, "learning_rate": 0.02, "distill": {}},
    {
        "name": "thin",
        "steps": 8,
        "learning_rate": 0.01,
        # One choice of a mask, by what the weights are after step 14.
        "prune": {"sparsity": 0.5, "every": 6},
        "distill": {},
    },
    {"name": "grid", "steps": 8, "learning_rate": 0.001, "quantize": {}},
]
CHOSEN_AT = 14
CONFIG = {
    **tiny.CONFIG,
    "model": {"width": 16},
    "stages": STAGES,
    "log_every": 7,
    "checkpoint_every": 7,
    "keep_checkpoints": 20,
}
# Units removed after the first stage, and pruning from inputs.
ONE_SHOT = {"sparsity": 0.5, "score": "wanda", "schedule": "one_shot"}
PHASES = {
    "stages": [
        {**STAGES[0], "shrink": SHRINK},
        {**STAGES[1], "prune": ONE_SHOT},
        STAGES[2],
    ]
}
MESH = {
    "mesh": {"data": 2, "model": 2},
    "sharding": {
        "parameters": "fsdp",
        "min_size": 4,
        "rules": {"first/kernel": [None, "model"], "second/kernel": ["model"]},
    },
}
# How arrays are split, by the end of their paths; all others are whole.
SPLIT = {
    "first/bias": ("data",),
    "first/kernel:1": ("data",),  # which units are left
    "first/kernel": (None, "model"),
    "second/kernel": ("model",),
}


def run(directory: pathlib.Path, settings: Any, **arguments: Any) -> Any:
    """Trains as `CONFIG` has it, with other settings."""
    config, task = parse_config({**CONFIG, **settings}), tiny.task()
    teacher = untrained_teacher(config, task)
    return train(
        config, task, directory, seed=0, quiet=True, teacher=teacher, **arguments
    )


def found(directory: pathlib.Path, settings: Any) -> Any:
    """A run that is finished, as it is restored on the devices there are."""
    config, task = parse_config({**CONFIG, **settings}), tiny.task()
    teacher = untrained_teacher(config, task)
    return finished(config, task, directory, seed=0, teacher=teacher)


class Seen(logging.Handler):
    """What was compiled, and how the states were split that were saved."""

    def __init__(self, stop_at: int) -> None:
        super().__init__()
        self.compiled: list[str] = []
        self.split: dict[str, set[Any]] = {}
        save = Checkpoints.save

        def saving(checkpoints: Any, step: int, state: Any) -> None:
            for path, leaf in zip(flat_paths(state), jax.tree.leaves(state)):
                spec = leaf.sharding.spec if np.ndim(leaf) else ()
                self.split.setdefault(path, set()).add(tuple(spec))
            if step == stop_at and jax.process_index() == jax.process_count() - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            save(checkpoints, step, state)

        setattr(Checkpoints, "save", saving)  # noqa: B010 - for this process
        jax.config.update("jax_log_compiles", True)
        logger = logging.getLogger("jax")
        # Not written: a pipe that nobody reads yet would fill.
        logger.handlers, logger.propagate = [self], False

    def emit(self, record: logging.LogRecord) -> None:
        """Notes what JAX compiles."""
        words = record.getMessage().split()
        if words[0] == "Compiling":
            self.compiled.append(words[1])

    def problems(self) -> list[str]:
        """What is not split as its parameter, at any time."""
        wrong = []
        for path, specs in self.split.items():
            end = "/".join(path.split("/")[-2:])
            if any(spec != SPLIT.get(end, ()) for spec in map(_trimmed, specs)):
                wrong.append(f"{path}: {specs}")
        return wrong


def _trimmed(spec: tuple[Any, ...]) -> tuple[Any, ...]:
    while spec and spec[-1] is None:
        spec = spec[:-1]
    return spec


def main() -> None:
    """Trains as the arguments say, a mapping in JSON.

    They hold `directory`, `settings` and `resume`; for several processes what
    `jax.distributed.initialize` takes; `stop_at`, the step at which the last process
    gets a SIGTERM; `other`, a finished run to restore here as well; `host_loop`, to
    call each step from the host.
    """
    arguments = json.loads(sys.argv[1])
    if "processes" in arguments:
        jax.distributed.initialize(*arguments["processes"])
    if arguments.get("host_loop"):
        chunk._prefers_host_loop = lambda *_: True
    seen = Seen(arguments.get("stop_at", -1))
    settings = {**arguments["settings"], **MESH}
    directory = pathlib.Path(arguments["directory"])
    trained = run(directory, settings, resume=arguments["resume"])
    compiled = sum(name in ("jit(chunk)", "jit(one)") for name in seen.compiled)
    other = arguments.get("other")
    report = {
        "hash": hash_of(trained.state),
        "other": other and hash_of(found(pathlib.Path(other), settings).state),
        "compiled": compiled,
        "split": sorted(p for p, specs in seen.split.items() if any(map(any, specs))),
        "problems": seen.problems(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
