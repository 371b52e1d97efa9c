"""One small comparison that several tests read, and sweeps of made-up cells."""

import pathlib
from typing import Any

import pytest

import compress.compare.grid as grid
from compress.compare import compare
from tests.compare import configs
from tests.compare.made_up import MadeUp
from tests.compare.test_grid import in_this_process

ROWS: list[dict[str, Any]] = [
    {"name": "float", "stages": 1},
    {"name": "P", "use": ["prune"]},
]


@pytest.fixture(scope="session")
def finished_grid(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The directory of a comparison of a float row and a pruned one; only to read."""
    root = tmp_path_factory.mktemp("finished") / "grid"
    config = configs.comparison(ROWS, export={"platforms": ["cpu"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "run_jobs", in_this_process)
        patch.setattr(grid, "measure_rows", lambda *args: [])
        assert compare(config, root, say=lambda line: None) == 0
    return root


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> MadeUp:
    """Made-up cells in this process, and no time spent on latency."""
    cells = MadeUp()
    monkeypatch.setattr(grid, "run_jobs", in_this_process)
    monkeypatch.setattr(grid, "measure_rows", lambda *args: [])
    monkeypatch.setattr(grid, "run_group", cells.group)
    return cells
