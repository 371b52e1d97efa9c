"""A comparison: rows times seeds, resumable, with a failing cell among them."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from typing import Any

import pytest

import compress.compare.grid as grid
import compress.compare.teachers as teachers
from compress.compare import CellError, compare
from compress.config import parse_config
from compress.config.latency import Latency
from compress.report import load_compare, render_table
from compress.task import TaskError
from compress.train import RunError
from tests.compare import configs

# Its loss is not finite, which no trace can tell.
BROKEN = {"name": "broken", "set": {"stages[0].learning_rate": 1e30}}
GOOD = {"name": "P + PTQ", "use": ["prune", "ptq"]}


def in_this_process(function: Any, jobs: Any, *, workers: int, cache: Any) -> Any:
    """Like `run_jobs`, without processes."""
    assert workers >= 1
    for job in jobs:
        yield job, function(*job)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker processes, and no time spent on latency."""
    monkeypatch.setattr(grid, "run_jobs", in_this_process)
    monkeypatch.setattr(grid, "measure_latency", lambda *args: None)


def test_a_failing_cell_is_reported_and_the_others_go_on(
    here: None, tmp_path: pathlib.Path
) -> None:
    config = configs.comparison(rows=[BROKEN, {"name": "float", "stages": 1}])
    lines: list[str] = []
    assert compare(config, tmp_path, say=lines.append) == 1
    error = json.loads((tmp_path / "broken-seed0/error.json").read_text())
    assert (error["row"], error["seed"]) == ("broken", 0)
    assert "the loss is" in error["error"]
    assert "RunError" in (tmp_path / "broken-seed0/traceback.txt").read_text()
    assert any("broken, seed 0: failed" in line for line in lines)
    loaded = load_compare(tmp_path)
    assert [c.row for c in loaded.cells] == ["float"]
    assert [c.row for c in loaded.failed] == ["broken"]

    # The same command goes on: what is finished stays, what failed is tried again.
    before = (tmp_path / "float-seed0/result.json").stat()
    lines.clear()
    assert compare(config, tmp_path, say=lines.append) == 1
    assert (
        tmp_path / "float-seed0/result.json"
    ).stat().st_mtime_ns == before.st_mtime_ns
    assert "1 of 2 cells are finished already" in lines


def test_a_row_that_cannot_work_is_refused_before_any_work(
    tmp_path: pathlib.Path,
) -> None:
    deep = {"name": "deep", "set": {"model.depth": 3}}
    config = configs.comparison(rows=[{"name": "float", "stages": 1}, deep])
    with pytest.raises(TaskError, match=r"cannot build the model from .*depth"):
        compare(config, tmp_path, say=lambda line: None)
    assert not list(tmp_path.glob("*-seed*"))


def test_a_directory_of_another_config_is_refused(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "float-seed0"
    folder.mkdir()
    (folder / "result.json").write_text(
        '{"config_hash": "0123456789abcdef", "seed": 0, "format_version": 2}'
    )
    with pytest.raises(CellError, match=r"0123456789ab.*Choose another --workdir"):
        compare(configs.comparison(), tmp_path, say=lambda line: None)
    assert not (tmp_path / "compare.json").exists()


def test_rows_of_the_same_folder_are_refused(tmp_path: pathlib.Path) -> None:
    config = configs.comparison(rows=[{"name": "a b"}, {"name": "a/b"}])
    with pytest.raises(CellError, match="same folder name; letters, digits"):
        compare(config, tmp_path)


def test_a_config_of_one_model_asks_for_rows(tmp_path: pathlib.Path) -> None:
    with pytest.raises(CellError, match="Use `run` for a single\\s+model, or add rows"):
        compare(parse_config(configs.SETTINGS), tmp_path)


def test_a_directory_that_cannot_be_made_is_said(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be written \(Not a directory\)"):
        compare(configs.comparison(), tmp_path / "file/runs", say=lambda line: None)


def test_each_teacher_is_trained_once_before_the_cells(
    here: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = lambda config, *args: f"{config.teacher.steps} steps"  # noqa: E731
    monkeypatch.setattr(teachers, "_train", train)
    monkeypatch.setattr(grid, "_run", lambda *args: 0)
    stages = [{"steps": 5, "learning_rate": 0.01, "distill": {}}]
    teacher = {"model": {"width": 4}, "steps": 5, "learning_rate": 0.01}
    rows = [
        {"name": "none"},
        {"name": "D", "use": ["distill"]},
        {"name": "D again", "use": ["distill"], "set": {"batch_size": 16}},
        {"name": "D longer", "use": ["distill"], "set": {"teacher.steps": 9}},
    ]
    config = configs.comparison(rows=rows, stages=stages, teacher=teacher, export={})
    compare(config, tmp_path, say=lambda line: None)
    assert load_compare(tmp_path).notes == ("5 steps", "9 steps")


def test_a_teacher_that_fails_is_the_reason_of_each_of_its_cells(
    here: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []

    def none_run(function: Any, jobs: Any, **settings: Any) -> Any:
        sent.extend(cells for _, cells, _ in jobs)
        return iter(())

    monkeypatch.setattr(grid, "run_jobs", none_run)
    rows = [
        {"name": "none"},
        {"name": "D", "use": ["distill"]},
        {
            "name": "D again",
            "use": ["distill"],
            "set": {"stages[0].learning_rate": 0.02},
        },
    ]
    config = configs.comparison(
        rows=rows,
        stages=[{"steps": 5, "learning_rate": 0.01, "distill": {}}],
        teacher={"model": {"width": 4}, "steps": 5, "learning_rate": 1e30},
        export={},
    )
    lines: list[str] = []
    assert compare(config, tmp_path, say=lines.append) == 2
    assert sent == [[("none", 0)]]
    for folder in ("D-seed0", "D_again-seed0"):
        error = json.loads((tmp_path / folder / "error.json").read_text())["error"]
        assert "The teacher (width 4) could not be trained" in error
        assert "the loss is" in error
    assert sum("failed: The teacher" in line for line in lines) == 3


def damaged_copy(finished_grid: pathlib.Path, root: pathlib.Path) -> pathlib.Path:
    """A finished grid whose pruned artifact and float checkpoints are damaged."""
    shutil.copytree(finished_grid, root)
    (root / "P-seed0/artifact/weights.safetensors").write_bytes(b"")
    for step in (root / "float-seed0/checkpoints").glob("[0-9]*"):
        shutil.rmtree(step)
        step.mkdir()
    return root


def test_what_cannot_be_measured_is_a_note_of_the_report(
    finished_grid: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = damaged_copy(finished_grid, tmp_path / "grid")
    monkeypatch.setattr(grid, "run_jobs", in_this_process)
    rows = [{"name": "float", "stages": 1}, {"name": "P", "use": ["prune"]}]
    # The first seed has failed, in both rows.
    config = configs.comparison(rows, seeds=(7, 0), export={"platforms": ["cpu"]})
    latency = Latency(batches=(1,), repetitions=10)
    timed = config.compare.model_copy(update={"latency": latency})
    config = config.model_copy(update={"compare": timed})
    lines: list[str] = []
    assert (root / "sensitivity.json").exists()  # that of earlier checkpoints
    grid.measure_latency(config, root, lines.append)
    loaded = load_compare(root)
    assert set(loaded.latency[1].entries) == {"float"}
    assert loaded.sensitivity is None
    latency_note, sensitivity_note = loaded.notes
    assert latency_note.startswith("P: the latency could not be measured: ")
    assert "weights.safetensors" in latency_note
    assert "none of the checkpoints can be used" in sensitivity_note
    assert lines[1:] == list(loaded.notes)
    assert latency_note in render_table(loaded)

    # A worker that dies while it measures is one as well.
    dead = grid.WorkerDied("its worker process died. Try fewer --workers.")
    monkeypatch.setattr(grid, "run_jobs", lambda *args, **rest: [((), dead)])
    grid.measure_latency(config, root, lines.append)
    (note,) = load_compare(root).notes
    assert note == f"Latency could not be measured: {dead}"
    assert not load_compare(root).latency


def test_a_grid_runs_in_worker_processes_and_its_latency_is_measured(
    tmp_path: pathlib.Path,
) -> None:
    config = configs.comparison(rows=[BROKEN, GOOD], seeds=(0, 1))
    latency = Latency(batches=(1, 3), repetitions=12)
    timed = config.compare.model_copy(update={"latency": latency})
    config = config.model_copy(update={"compare": timed})
    lines: list[str] = []
    assert compare(config, tmp_path, workers=2, say=lines.append) == 2
    loaded = load_compare(tmp_path)
    assert sorted((c.row, c.seed) for c in loaded.cells) == [
        ("P + PTQ", 0),
        ("P + PTQ", 1),
    ]
    assert sorted((c.row, c.seed) for c in loaded.failed) == [
        ("broken", 0),
        ("broken", 1),
    ]
    hashes = {c.checkpoint_hash for c in loaded.cells}
    assert len(hashes) == 2, "two seeds gave one model"
    assert set(loaded.latency) == {1, 3}
    assert set(loaded.latency[3].entries) == {"P + PTQ"}
    assert loaded.latency[3].repetitions == 12

    before = {c.seed: c.checkpoint_hash for c in loaded.cells}
    files = [tmp_path / f"P_+_PTQ-seed{seed}/result.json" for seed in (0, 1)]
    times = [file.stat().st_mtime_ns for file in files]
    compare(config, tmp_path, workers=1, say=lines.append)
    assert "2 of 4 cells are finished already" in lines
    assert times == [file.stat().st_mtime_ns for file in files]
    assert before == {c.seed: c.checkpoint_hash for c in load_compare(tmp_path).cells}


def test_workers_end_with_their_parent(tmp_path: pathlib.Path) -> None:
    script = f"""
import time, pathlib
from compress.compare.pool import run_jobs
from tests.compare.test_grid import _sleep
if __name__ == "__main__":
    list(run_jobs(_sleep, [({str(tmp_path / "pid")!r},)], workers=1,
                  cache=pathlib.Path({str(tmp_path)!r})))
"""
    (tmp_path / "parent.py").write_text(script)
    root = pathlib.Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py"],
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    worker = int(_wait_for(tmp_path / "pid"))
    parent.kill()
    parent.wait()
    for _ in range(100):
        if not pathlib.Path(f"/proc/{worker}").exists():
            return
        time.sleep(0.1)
    raise AssertionError("the worker goes on without its parent")


def _sleep(path: str) -> None:
    pathlib.Path(path).write_text(str(os.getpid()))
    time.sleep(300)


def _wait_for(path: pathlib.Path) -> str:
    for _ in range(600):
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.1)
    raise AssertionError("the worker did not start")
