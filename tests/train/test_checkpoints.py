"""Checkpoints that are damaged, and which ones are kept."""

import errno
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compress.train import CheckpointError, finished, hash_of
from compress.train.checkpoints import Checkpoints, DamagedError
from compress.train.checksums import checksums
from compress.train.metrics import read_metrics
from compress.train.preservation import Score
from compress.train.restore import newest_good
from tests.train.test_loop import PLAIN, parse_config, run, tiny

# Where one array cannot be read, tensorstore tells a closed loop of the others.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

STATE = {
    "kernel": jnp.arange(6000.0).reshape(60, 100) * 1.1,
    "mask": jnp.ones((7,), bool),
    "half": jnp.ones((3, 3), jnp.bfloat16),
    "step": jnp.int32(3),
    "key": jax.random.key(3),
}


def opened(directory: pathlib.Path, **settings) -> Checkpoints:
    settings = {"keep": 9, "identity": "x", **settings}
    return Checkpoints(directory / "checkpoints", **settings)


def files_of(step: pathlib.Path):
    """Where its arrays are, the largest last."""
    files = [path for path in step.rglob("*") if path.is_file() and "d" in path.parts]
    return sorted(files, key=lambda path: path.stat().st_size)


def truncate(step):
    file = files_of(step)[-1]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_bit(step):
    """Nothing below notices it: the array has other numbers."""
    file = files_of(step)[-1]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x40
    file.write_bytes(bytes(data))


def remove_metadata(step):
    (step / "_CHECKPOINT_METADATA").unlink()


def remove_array_metadata(step):
    (step / "state/_METADATA").unlink()


def empty(step):
    shutil.rmtree(step)
    step.mkdir()


# So wide that quantization costs accuracy: the best checkpoint is not the newest.
WIDE = {"model": {"width": 2048}, "checkpoint_every": 7}
CONFIG = {**PLAIN, **WIDE, "keep_best": 1}
DAMAGES = [truncate, flip_a_bit, remove_metadata, remove_array_metadata, empty]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    with opened(directory) as checkpoints:
        checkpoints.save(5, STATE)
    return directory


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_noticed_and_named(saved, tmp_path, damage):
    shutil.copytree(saved, tmp_path / "run")
    with opened(tmp_path / "run") as checkpoints:
        assert hash_of(checkpoints.load(5, STATE)) == hash_of(STATE)
    damage(tmp_path / "run/checkpoints/5")
    with (
        opened(tmp_path / "run") as checkpoints,
        pytest.raises(DamagedError, match=r"run/checkpoints/5: "),
    ):
        checkpoints.load(5, STATE)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.EMFILE, os.strerror(errno.EMFILE), "_METADATA"),
        ValueError("UNKNOWN: Failed: Input/output error [os_error_code='5']"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"),
    ],
)
def test_no_memory_or_a_failing_disk_is_no_damage(saved, tmp_path, monkeypatch, error):
    def load(*args):
        raise ValueError("no handler fits") from error

    shutil.copytree(saved, tmp_path / "run")
    with opened(tmp_path / "run") as checkpoints:
        monkeypatch.setattr(checkpoints._checkpointer, "load", load)
        with pytest.raises(CheckpointError, match="It is left as it is"):
            newest_good(checkpoints, lambda step: checkpoints.load(step, STATE))
    assert steps_in(tmp_path / "run") == [5]


def test_a_checkpoint_that_is_damaged_again_is_kept_beside_the_first(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    for _ in range(3):
        with opened(tmp_path / "run") as checkpoints:
            checkpoints.set_aside([5])
        shutil.copytree(saved / "checkpoints/5", tmp_path / "run/checkpoints/5")
    found = sorted(path.name for path in (tmp_path / "run/damaged").iterdir())
    assert found == ["5", "5-2", "5-3"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run, with its newest two checkpoints and its best one."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    return directory, hash_of(run(directory, CONFIG).state)


def steps_in(directory):
    steps = (directory / "checkpoints").glob("[0-9]*")
    return sorted(int(path.name) for path in steps)


def test_a_run_keeps_its_best_checkpoint_besides_the_newest(whole):
    lines = read_metrics(whole[0] / "metrics.jsonl")
    scores = {x["step"]: x["eval_score"] for x in lines if x["stage"] == "b"}
    best = max(scores, key=lambda step: (scores[step], step))
    assert best < 49 and scores[best] > scores[50]
    assert steps_in(whole[0]) == [best, 49, 50]


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    whole, tmp_path, caplog
):
    shutil.copytree(whole[0], tmp_path / "run")
    flip_a_bit(tmp_path / "run/checkpoints/50")
    again = finished(parse_config(CONFIG), tiny.task(), tmp_path / "run", seed=0)
    assert again is None  # and nothing was moved, which may be another process's
    trained = run(tmp_path / "run", CONFIG, resume=True)
    assert hash_of(trained.state) == whole[1]
    assert "checkpoints/50: " in caplog.text
    older = steps_in(whole[0])[-2]
    assert f"Going back to step {older}." in caplog.text
    assert (tmp_path / "run/damaged/50").is_dir()
    # The best is known from the log.
    assert steps_in(tmp_path / "run") == steps_in(whole[0])


def test_no_checkpoint_that_can_be_used_is_one_clear_error(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    for step in (tmp_path / "run/checkpoints").glob("[0-9]*"):
        truncate(step)
    with pytest.raises(CheckpointError, match="none of the checkpoints can be used"):
        run(tmp_path / "run", CONFIG, resume=True)
    # What is left of them is where it was.
    assert not (tmp_path / "run/damaged").exists()


def steps_after(directory, scores, **settings):
    with opened(directory, **settings) as checkpoints:
        for step, score in scores.items():
            checkpoints.save(step, {"x": np.zeros(2, np.float32)})
            checkpoints.scored(step, score)
    return steps_in(directory)


def test_the_newest_and_the_best_of_the_stage_are_kept(tmp_path):
    values = {1: 0.99, 2: 0.5, 3: 0.7, 4: 0.7, 5: 0.2, 6: 0.3, 7: 0.1}
    scores = {s: Score("a" if s == 1 else "b", x) for s, x in values.items()}
    # Of equal ones the later; the dense network of stage a is no rival.
    assert steps_after(tmp_path / "one", scores, keep=2, keep_best=1) == [4, 6, 7]
    assert steps_after(tmp_path / "none", scores, keep=2) == [6, 7]


def test_a_checksum_is_that_of_the_numbers_however_they_are_split():
    whole = checksums({"x": np.arange(24, dtype=np.float32).reshape(4, 6)})
    assert whole == checksums({"x": jnp.arange(24.0).reshape(4, 6)})
    moved = np.arange(24, dtype=np.float32).reshape(4, 6)
    moved[[0, 1]] = moved[[1, 0]]
    assert checksums({"x": moved}) != whole
