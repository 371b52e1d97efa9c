"""Sweeps: which cells there are, who runs them, and what is left to run.

Where only that matters, a cell is made up: a result as a run would have written it.
"""

import csv
import json
import pathlib
from typing import Any

import pytest

import compress.compare.grid as grid
from compress.compare import CellError, Shard, parse_shard, sweep
from compress.config import parse_config
from compress.report import load_compare
from compress.train import InUseError
from compress.train.directory import claimed
from tests.compare import configs
from tests.compare.made_up import SPARSITY, MadeUp, run, swept

GRID = {"grid": {SPARSITY: [0.2, 0.5, 0.8]}}


def table(directory: pathlib.Path) -> list[dict[str, str]]:
    return list(csv.DictReader((directory / "sweep.csv").read_text().splitlines()))


def test_a_grid_runs_each_cell_once_and_can_be_read_as_a_comparison(
    made_up: MadeUp, tmp_path: pathlib.Path
) -> None:
    made_up.failing = {0.5}
    failed, lines = run(swept(GRID), tmp_path)
    assert failed == 2
    every = [(sparsity, seed) for sparsity in (0.2, 0.5, 0.8) for seed in (0, 1)]
    assert made_up.done == every
    loaded = load_compare(tmp_path)
    assert loaded.rows == ("sparsity=0.2", "sparsity=0.5", "sparsity=0.8")
    assert [f.row for f in loaded.failed] == ["sparsity=0.5", "sparsity=0.5"]
    cells = json.loads((tmp_path / "manifest.json").read_text())["cells"]
    assert [cell["id"] for cell in cells] == list(range(6))
    assert cells[5]["overrides"] == {SPARSITY: 0.8} and cells[5]["seed"] == 1
    stored = json.loads((tmp_path / cells[5]["folder"] / "result.json").read_text())
    assert stored["config_hash"] == cells[5]["config_hash"]
    lines_of = table(tmp_path)
    assert [line["state"] for line in lines_of] == (
        ["finished"] * 2 + ["failed"] * 2 + ["finished"] * 2
    )
    assert float(lines_of[4][SPARSITY]) == 0.8
    assert float(lines_of[4]["bytes"]) == stored["sizes"]["file"]

    # The same command goes on: only what failed is run again.
    made_up.failing, made_up.done = set(), []
    failed, lines = run(swept(GRID), tmp_path)
    assert failed == 0 and made_up.done == [(0.5, 0), (0.5, 1)]
    assert "4 of 6 cells are finished already" in lines


def test_shards_share_a_directory_and_run_every_cell_once(
    made_up: MadeUp, tmp_path: pathlib.Path
) -> None:
    with claimed(tmp_path, shared=True):  # another shard is running
        for index in (2, 0, 3, 1):
            run(swept(GRID), tmp_path, shard=Shard(index, 4))
            if index == 2:
                assert made_up.done == [(0.5, 0)]
                assert not (tmp_path / "latency.json").exists()
        with pytest.raises(InUseError, match="in use by another process"):
            run(swept(GRID), tmp_path)
    every = [(sparsity, seed) for sparsity in (0.2, 0.5, 0.8) for seed in (0, 1)]
    assert sorted(made_up.done) == every
    made_up.done = []
    _, lines = run(swept(GRID), tmp_path)
    assert made_up.done == [] and "6 of 6 cells are finished already" in lines
    assert {line["state"] for line in table(tmp_path)} == {"finished"}


def test_a_cell_that_another_process_runs_is_left_to_it(
    made_up: MadeUp, tmp_path: pathlib.Path
) -> None:
    with claimed(tmp_path / ".locks/sparsity_0.2-seed1"):
        failed, lines = run(swept(GRID), tmp_path, shard=Shard(1, 4))
    assert failed == 0 and made_up.done == [(0.8, 1)]
    assert any("seed 1: another process is running it" in line for line in lines)
    assert not (tmp_path / "sparsity_0.2-seed1").exists()


def test_a_dead_worker_fails_its_cell_alone(
    made_up: MadeUp, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_dies(function: Any, jobs: Any, **settings: Any) -> Any:
        for index, job in enumerate(jobs):
            dead = grid.WorkerDied("its worker process died")
            yield job, dead if index == 1 else function(*job)

    monkeypatch.setattr(grid, "run_jobs", one_dies)
    monkeypatch.setattr(grid, "measure_latency", lambda *args: None)
    failed, _ = run(swept(GRID, seeds=[0]), tmp_path, shard=Shard(0, 1))
    assert failed == 1 and [s for s, _ in made_up.done] == [0.2, 0.8]
    error = json.loads((tmp_path / "sparsity_0.5-seed0/error.json").read_text())
    assert error["error"] == "WorkerDied: its worker process died"
    assert [line["state"] for line in table(tmp_path)] == [
        "finished", "failed", "finished",
    ]  # fmt: skip


def test_a_full_disk_fails_its_cells_alone(
    made_up: MadeUp, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_dies(function: Any, jobs: Any, **settings: Any) -> Any:
        for index, job in enumerate(jobs):
            dead = grid.WorkerDied("its worker process died")
            yield job, dead if index == 0 else function(*job)

    monkeypatch.setattr(grid, "run_jobs", one_dies)
    made_up.failing = {0.5}
    for name in ("sparsity_0.2-seed0", "sparsity_0.5-seed0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "traceback.txt").symlink_to("/dev/full")
    setting = {"grid": {SPARSITY: [0.2, 0.5, 0.6, 0.8]}}
    (tmp_path / ".locks").mkdir()
    (tmp_path / ".locks/sparsity_0.6-seed0").touch()  # it cannot be claimed
    failed, lines = run(swept(setting, seeds=[0]), tmp_path, shard=Shard(0, 1))
    assert failed == 3 and [s for s, _ in made_up.done] == [0.5, 0.8]
    for said in ("died", "made to fail", "cannot be written"):
        assert sum(f"failed: {said}" in x or said in x for x in lines) == 1, lines
    states = [line["state"] for line in table(tmp_path)]
    assert states == ["failed", "failed", "failed", "finished"]


def test_a_directory_of_something_else_is_refused(
    made_up: MadeUp, tmp_path: pathlib.Path
) -> None:
    run(swept(GRID, seeds=[0]), tmp_path / "one", shard=Shard(0, 3))
    before = (tmp_path / "one/manifest.json").read_text()
    for other in ({"grid": {SPARSITY: [0.5, 0.2, 0.8]}}, {"list": [{SPARSITY: 0.2}]}):
        with pytest.raises(CellError, match="holds another sweep.*--workdir"):
            run(swept(other, seeds=[0]), tmp_path / "one")
    assert (tmp_path / "one/manifest.json").read_text() == before

    (tmp_path / "one/manifest.json").write_text("[]")
    with pytest.raises(CellError, match=r"manifest.json: not a manifest.*Remove it"):
        run(swept(GRID, seeds=[0]), tmp_path / "one")

    (tmp_path / "two").mkdir()
    (tmp_path / "two/compare.json").write_text("{}")
    with pytest.raises(CellError, match="holds a comparison. Choose another"):
        run(swept(GRID), tmp_path / "two")


def test_a_config_that_cannot_be_swept_says_what_to_do(tmp_path: pathlib.Path) -> None:
    with pytest.raises(CellError, match="has no sweep: section. Add one"):
        sweep(parse_config(configs.SETTINGS), tmp_path)
    with pytest.raises(CellError, match=r"choose the one to sweep with --row, of flo"):
        sweep(configs.comparison(sweep=GRID), tmp_path)
    search = {"space": {SPARSITY: [0.5]}, "objectives": {"score": "maximize"}}
    with pytest.raises(CellError, match="Run it without --shard and --launcher"):
        sweep(swept({"search": {**search, "trials": 1}}), tmp_path, shard=Shard(0, 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", "such as 0/4"),
        ("a/4", "such as 0/4"),
        ("-1/4", "such as 0/4"),
        ("4/4", "out of range; shards go from 0/4 to 3/4"),
        ("0/0", "there is no shard of 0"),
    ],
)
def test_a_shard_is_one_of_how_many(text: str, message: str) -> None:
    assert parse_shard("3/4") == Shard(3, 4)
    with pytest.raises(CellError, match=message):
        parse_shard(text)


def test_a_run_that_cannot_work_is_found_before_the_first_is_trained(
    tmp_path: pathlib.Path,
) -> None:
    with pytest.raises(ValueError, match=r"cannot build the model from .*depth"):
        run(swept({"grid": {"model.depth": [3, 4]}}), tmp_path)
    assert not list(tmp_path.glob("*-seed*"))


@pytest.mark.slow
def test_a_sweep_runs_in_worker_processes(tmp_path: pathlib.Path) -> None:
    config = swept({"grid": {SPARSITY: [0.2, 0.8]}}, seeds=[0])
    assert run(config, tmp_path, workers=2)[0] == 0
    loaded = load_compare(tmp_path)
    assert [(c.row, round(c.sparsity, 1)) for c in loaded.cells] == [
        ("sparsity=0.2", 0.2),
        ("sparsity=0.8", 0.8),
    ]
    assert set(loaded.latency[64].entries) == set(loaded.rows)
