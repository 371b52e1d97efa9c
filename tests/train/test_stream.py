"""A run on examples that are read when they are needed."""

import pathlib
import shutil
import time
import zlib
from dataclasses import replace
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pytest

from compress.config import parse_config
from compress.data import DataError, Source
from compress.task import Task, load_task
from compress.train import hash_of, input_records, train
from compress.train.metrics import read_metrics
from compress.train.provenance import data_hash
from tests import tiny

CONFIG = parse_config({**tiny.CONFIG, "stages": tiny.CONFIG["stages"][::2]})


def streamed(slow_seconds: float = 0.0) -> Task:
    """The tiny task with its training examples in a source."""
    task = tiny.task()

    def read(index: int) -> dict[str, Any]:
        time.sleep(slow_seconds)
        return {name: np.asarray(x[index]) for name, x in task.train.items()}

    return task._replace(train=Source(read, len(task.train["x"]), "tiny"))


def run(task: Task, directory: pathlib.Path, **settings: Any) -> Any:
    return train(CONFIG, task, directory, seed=0, quiet=True, **settings).state


def test_a_stream_gives_what_arrays_give_and_resumes_exactly(
    tmp_path: pathlib.Path,
) -> None:
    arrays = run(tiny.task(), tmp_path / "arrays")
    state = run(streamed(), tmp_path / "stream")
    for path in ("first", "second"):
        np.testing.assert_allclose(
            state.params[path]["kernel"],
            arrays.params[path]["kernel"],
            rtol=1e-4,  # thirty steps in another program
            atol=1e-5,
        )
    lines = read_metrics(tmp_path / "stream/metrics.jsonl")
    assert all(0.0 <= line["input_wait"] <= 1.0 for line in lines)
    assert "input_wait" not in read_metrics(tmp_path / "arrays/metrics.jsonl")[0]
    task = streamed()
    partly = replace(task.train, skipped=("7.png: is broken",))
    skipped, waited = input_records(task._replace(train=partly), tmp_path / "stream")
    assert skipped == "train: left out 7.png: is broken"
    assert waited.startswith("the device waited for input")
    assert input_records(tiny.task(), tmp_path / "arrays") == []
    # From an earlier checkpoint on: the same batches, the same bits.
    newest = max((tmp_path / "stream/checkpoints").glob("[0-9]*"), key=lambda p: p.name)
    shutil.rmtree(newest)
    again = run(streamed(), tmp_path / "stream", resume=True)
    assert hash_of(again) == hash_of(state)


def test_waiting_for_slow_files_is_measured(tmp_path: pathlib.Path) -> None:
    run(streamed(slow_seconds=0.01), tmp_path / "run")
    waits = [x["input_wait"] for x in read_metrics(tmp_path / "run/metrics.jsonl")]
    # 16 examples of 10 ms in each of 8 threads: 20 ms a batch, some 1 ms a step.
    assert np.median(waits) > 0.3


@pytest.mark.parametrize("kind", [FileNotFoundError, BadZipFile, zlib.error])
def test_a_file_that_is_gone_or_broken_stops_the_run_and_names_the_step(
    tmp_path: pathlib.Path, kind: type[Exception]
) -> None:
    task = streamed()

    def read(index: int) -> dict[str, Any]:
        if index == 17:
            raise kind("17.png is gone")
        return task.train[index]

    gone = task._replace(train=Source(read, task.train.size, "tiny"))
    with pytest.raises(DataError, match=r"step \d+ cannot be read: 17.png is gone"):
        run(gone, tmp_path / "run")


def test_a_config_may_name_a_task_that_reads_files() -> None:
    task = load_task("tests.train.test_stream:streamed")
    assert isinstance(task.train, Source) and task.train[3]["y"].shape == ()


def test_other_files_are_other_data() -> None:
    task = streamed()
    other = task._replace(train=Source(task.train.read, task.train.size, "other"))
    assert data_hash(task) != data_hash(other)


def test_reading_needs_the_extra(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "grain", None)
    with pytest.raises(ImportError, match=r"pip install \"jax-compress\[data\]\""):
        run(streamed(), tmp_path / "run")
