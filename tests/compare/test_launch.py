"""Shards as jobs of submitit; on this machine, as there is no Slurm to test with."""

import pathlib
import shutil

import pytest

from compress.compare import CellError, launch, sweep
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
