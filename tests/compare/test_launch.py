"""Shards as jobs of submitit or Ray; on this machine, for lack of a cluster."""

import pathlib
import shutil
import sys

import pytest

from compress.compare import CellError, launch, sweep
from compress.compare.launch import run_on_ray
from compress.report import load_compare
from tests.compare.made_up import SPARSITY, swept

GRID = {"grid": {SPARSITY: [0.2, 0.8]}}


def test_what_cannot_be_submitted_is_said_before_it_is(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("submitit")
    config = swept(GRID, seeds=[0])
    with pytest.raises(CellError, match="has 2 cells. Use at most that many"):
        launch(config, tmp_path, jobs=3, options={}, cluster="local")
    options = {"timeout_minutes": 3}
    with pytest.raises(CellError, match=r"(?s)timeout_minutes.*timeout_min"):
        launch(config, tmp_path, jobs=2, options=options, cluster="local")
    if shutil.which("srun") is None:
        with pytest.raises(CellError, match='Could not detect "srun"'):
            launch(config, tmp_path, jobs=2, options={})
    assert not list(tmp_path.glob("*-seed*"))


@pytest.mark.slow
def test_submitted_shards_run_every_cell(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("submitit")
    config = swept({"list": [{SPARSITY: 0.2}, {"stages[0].learning_rate": 1e30}]}, [0])
    options = {"timeout_min": 10}
    jobs = launch(config, tmp_path, jobs=2, options=options, workers=1, cluster="local")
    assert [job.result() for job in jobs] == [0, 1]
    loaded = load_compare(tmp_path)
    assert [cell.row for cell in loaded.cells] == ["sparsity=0.2"]
    assert [cell.row for cell in loaded.failed] == ["learning_rate=1e+30"]
    lines: list[str] = []
    assert sweep(config, tmp_path, workers=1, say=lines.append) == 1
    assert "1 of 2 cells are finished already" in lines


def test_a_task_of_ray_that_cannot_be_is_said_before_it_starts(
    tmp_path: pathlib.Path,
) -> None:
    pytest.importorskip("ray")
    config = swept(GRID, seeds=[0])
    with pytest.raises(CellError, match="has 2 cells. Use at most that many"):
        run_on_ray(config, tmp_path, jobs=3, options={})
    with pytest.raises(CellError, match="num_cpu"):
        run_on_ray(config, tmp_path, jobs=2, options={"num_cpu": 1})
    assert not list(tmp_path.glob("*-seed*"))


def test_without_ray_the_extra_is_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"jax-compress\[ray\]"):
        run_on_ray(swept(GRID, seeds=[0]), tmp_path, jobs=2, options={})


@pytest.mark.slow
def test_shards_on_ray_run_every_cell(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("ray")
    config = swept({"list": [{SPARSITY: 0.2}, {"stages[0].learning_rate": 1e30}]}, [0])
    said: list[str] = []
    failed = run_on_ray(
        config, tmp_path, jobs=2, options={"num_cpus": 1}, workers=1, say=said.append
    )
    assert failed == 1
    assert sorted(said) == [
        "shard 0/2: done, 0 cells failed",
        "shard 1/2: done, 1 cells failed",
    ]
    loaded = load_compare(tmp_path)
    assert [cell.row for cell in loaded.cells] == ["sparsity=0.2"]
    assert [cell.row for cell in loaded.failed] == ["learning_rate=1e+30"]
