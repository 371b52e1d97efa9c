"""Sixteen seeds in one program against sixteen processes, on two cores.

Goal: at least four times the throughput, from the config to the report, and for each
seed the result it has alone.
"""

import concurrent.futures
import json
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

from compress.annotations import PyTree
from compress.config import Config, load_config, row_config
from compress.machine import describe_machine
from compress.task import load_task
from compress.train import finished, teacher_of
from experiments.bench.results import save

_SEEDS = flags.DEFINE_integer("num_seeds", 16, "How many seeds.")
_QUICK = flags.DEFINE_bool("quick", False, "A few steps of every stage, not saved.")
_CONFIG = pathlib.Path(__file__).parents[2] / "configs/digits.yaml"
_ROW, _CORES = "P+Q+D", 2


def written(folder: pathlib.Path, together: int) -> pathlib.Path:
    """The demo's config with one row, and so many seeds in one program."""
    config = load_config(_CONFIG, fast=_QUICK.value)
    assert config.compare is not None
    tree = config.model_dump(mode="json")
    rows = [row for row in tree["compare"]["rows"] if row["name"] == _ROW]
    # A few steps teach nothing: an integer that moves is then a large part of it.
    export = {**tree["export"], "tolerance": 0.05 if _QUICK.value else 1e-3}
    tree |= {
        "seeds": list(range(_SEEDS.value)),
        "vmap_seeds": together,
        "compare": {"rows": rows, "reference": _ROW},
        "export": export,
    }
    path = folder / f"seeds{together}.yaml"
    path.write_text(json.dumps(tree))
    return path


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "compress.cli.main", *arguments]


def in_processes(config: pathlib.Path, root: pathlib.Path) -> float:
    """Seconds for a `jax-compress run` for each seed, one to a core.

    And for one comparison of what they left, so that both ways end in a report.
    """
    cores: queue.Queue[int] = queue.Queue()
    for core in sorted(os.sched_getaffinity(0))[:_CORES]:
        cores.put(core)

    def one(seed: int) -> None:
        core = cores.get()
        which = ["--row", _ROW, "--set", f"seeds=[{seed}]", "--workdir", str(root)]
        subprocess.run(
            ["taskset", "-c", str(core), *_command("run", str(config), *which)],
            check=True,
            capture_output=True,
        )
        cores.put(core)

    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(_CORES) as pool:
        list(pool.map(one, range(_SEEDS.value)))
    return time.monotonic() - started + in_programs(config, root)


def in_programs(config: pathlib.Path, root: pathlib.Path) -> float:
    """Seconds for a `jax-compress compare`, with its latency and report."""
    started = time.monotonic()
    arguments = ["compare", str(config), "--workdir", str(root)]
    subprocess.run(_command(*arguments), check=True, capture_output=True)
    return time.monotonic() - started


def states(config: Config, root: pathlib.Path) -> dict[int, Any]:
    """The trained state and the result of every seed."""
    assert config.compare is not None
    own, task = (
        row_config(config, config.compare.rows[0]),
        load_task(config.task, config.data),
    )
    teacher = teacher_of(own, task, root / "teachers", quiet=True)
    found = {}
    for seed in config.seeds:
        folder = root / f"{_ROW}-seed{seed}"
        run = finished(own, task, folder, seed=seed, teacher=teacher)
        assert run is not None
        found[seed] = run.state, json.loads((folder / "result.json").read_text())
    return found


def differences(alone: Mapping[int, Any], together: Mapping[int, Any]) -> Any:
    """How far each seed is from its own run alone."""
    masks, weights, scores = [], [], []
    for seed, (state, result) in alone.items():
        other, other_result = together[seed]
        masks.append(_unequal(state.compression, other.compression))
        weights.append(_largest(state.params, other.params))
        scores.append(other_result["score"] - result["score"])
    return {
        "masks": float(np.mean(masks)),
        "parameters": float(np.median(weights)),
        "score": float(np.mean(scores)),
        "score_standard_error": float(np.std(scores) / len(scores) ** 0.5),
    }


def _unequal(one: PyTree, other: PyTree) -> float:
    """The fraction of mask bits that differ."""
    pairs = [
        (np.asarray(a), np.asarray(b))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
        if a.dtype == np.bool_
    ]
    return sum(int((a != b).sum()) for a, b in pairs) / sum(a.size for a, _ in pairs)


def _largest(one: PyTree, other: PyTree) -> float:
    """The largest difference of a parameter, relative to the largest one."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(a)).max())
        for a, b in pairs
    )


def measured(root: pathlib.Path) -> dict[str, Any]:
    """Runs everything; the teacher is trained beforehand."""
    configs = {n: written(root, n) for n in (1, _SEEDS.value // 2, _SEEDS.value)}
    config = load_config(configs[1])
    assert config.compare is not None
    own = row_config(config, config.compare.rows[0])
    teacher_of(own, load_task(own.task, own.data), root / "teachers", quiet=True)
    seconds: dict[str, float] = {}
    for count, path in configs.items():
        name = f"{_SEEDS.value // count} programs of {count}"
        work = root / str(count)
        shutil.copytree(root / "teachers", work / "teachers")
        runs = in_processes if count == 1 else in_programs
        seconds["processes" if count == 1 else name] = runs(path, work)
        print(seconds, flush=True)
    both = [states(config, root / str(n)) for n in (1, _SEEDS.value)]
    return {"seconds": seconds, "differences": differences(*both)}


def main(_: list[str]) -> None:
    """Measures and saves."""
    logging.set_verbosity(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        found = measured(pathlib.Path(folder))
    result = {"kind": "seeds", "num_seeds": _SEEDS.value, "row": _ROW, **found}
    result["machine"] = describe_machine()
    if _QUICK.value:
        print(json.dumps(result, indent=1))
    else:
        save("seeds", "Many seeds in one program", result)


if __name__ == "__main__":
    app.run(main)
