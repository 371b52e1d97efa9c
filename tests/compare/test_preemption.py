"""A SIGTERM to a comparison: what its workers train is saved, and gone on with."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import compress
from compress.data import Source
from compress.train.metrics import read_metrics
from tests import tiny

# A checkpoint before the last step is there for the SIGTERM alone.
SETTINGS: dict[str, Any] = {
    "task": "tests.compare.test_preemption:slow",
    "data": {},
    "stages": [{"steps": 120, "learning_rate": 0.01, "prune": {"sparsity": 0.5}}],
    "log_every": 1,
    "checkpoint_every": 1000,
    "export": {"platforms": ["cpu"]},
}
SCRIPT = """
import pathlib, sys
from compress.compare import compare
from tests.compare import configs, test_preemption
if __name__ == "__main__":
    rows = [{"name": "P", "use": ["prune"]}]
    config = configs.comparison(rows, **test_preemption.SETTINGS)
    raise SystemExit(compare(config, pathlib.Path(sys.argv[1]), workers=1))
"""


def slow() -> compress.Task:
    """The tiny task, 20 ms a step."""
    task = tiny.task()

    def read(index: int) -> dict[str, Any]:
        time.sleep(0.01)
        return {name: np.asarray(x[index]) for name, x in task.train.items()}

    return task._replace(train=Source(read, len(task.train["x"]), "slow"))


def started(script: str, *arguments: Any) -> subprocess.Popen[str]:
    """A Python script that is the first of a process group."""
    path = pathlib.Path(arguments[0]).with_suffix(".py")
    path.write_text(script)
    root = pathlib.Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, path, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until(found: Callable[[], Any]) -> None:
    for _ in range(1200):
        if found():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen in a minute")


def any_of_group(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


def preempted(directory: pathlib.Path, whole_group: bool) -> int:
    """Sends a SIGTERM to a comparison at work; returns the step that was saved."""
    process = started(SCRIPT, directory)
    metrics = directory / "P-seed0/metrics.jsonl"
    wait_until(lambda: process.poll() is not None or len(read_metrics(metrics)) > 2)
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "what was begun is saved; the same command goes on" in said
    assert "Traceback" not in said
    wait_until(lambda: not any_of_group(process.pid))  # no worker is left
    (saved,) = (directory / "P-seed0/checkpoints").glob("[0-9]*")
    assert int(saved.name) == read_metrics(metrics)[-1]["step"]
    assert not (directory / "P-seed0/error.json").exists()
    return int(saved.name)


def test_a_sigterm_to_the_parent_saves_what_its_worker_trains(
    tmp_path: pathlib.Path,
) -> None:
    assert 0 < preempted(tmp_path / "cut", whole_group=False) < 120


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [False, True])
def test_a_preempted_comparison_ends_in_the_result_of_a_whole_one(
    whole_group: bool, tmp_path: pathlib.Path
) -> None:
    step = preempted(tmp_path / "cut", whole_group)
    for name in ("cut", "whole"):
        process = started(SCRIPT, tmp_path / name)
        assert process.communicate(timeout=300) and process.returncode == 0
    lines = read_metrics(tmp_path / "cut/P-seed0/metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 121))
    seconds = [line["seconds"] for line in lines]
    assert seconds[step] > seconds[step - 1]  # gone on with, not begun again
    cut, whole = (
        json.loads((tmp_path / name / "P-seed0/result.json").read_text())
        for name in ("cut", "whole")
    )
    for key in ("checkpoint_hash", "score", "trained_score", "sizes", "sparsity"):
        assert cut[key] == whole[key], key


STUBBORN = """
import pathlib, sys
from compress.compare.pool import run_jobs
from tests.compare.test_preemption import stubborn
if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    list(run_jobs(stubborn, [(str(folder),)], workers=1, cache=folder))
"""


def stubborn(folder: str) -> None:
    """Takes four seconds to save."""
    from compress.train.signals import Terminated

    with Terminated() as terminated:
        (pathlib.Path(folder) / "began").touch()
        wait_until(lambda: terminated.seen)
        (pathlib.Path(folder) / "told").touch()
        time.sleep(4)
        (pathlib.Path(folder) / "saved").touch()


@pytest.mark.slow
def test_a_second_sigterm_ends_the_parent_while_the_worker_still_saves(
    tmp_path: pathlib.Path,
) -> None:
    with started(STUBBORN, tmp_path) as process:
        for name in ("began", "told"):
            wait_until((tmp_path / name).exists)
            process.terminate()
        assert process.wait(timeout=2) == -signal.SIGTERM
        assert not (tmp_path / "saved").exists()
        wait_until((tmp_path / "saved").exists)
