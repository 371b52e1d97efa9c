"""Every config in the repository is valid and runs, shrunk to seconds."""

import json
import os
import pathlib

import pytest

from compress.compare import compare
from compress.config import json_schema, load_config
from compress.report import load_compare

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
_QUICK = ("digits", "speech")
# Tasks whose data do not travel with the project.
_WITH_DATA = ("cifar", "speech")


def test_the_committed_schema_is_the_one_in_force():
    assert json.loads((CONFIGS / "schema.json").read_text()) == json_schema()


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[] if path.stem in _QUICK else pytest.mark.slow)
        for path in sorted(CONFIGS.glob("*.yaml"))
    ],
    ids=lambda path: path.stem,
)
def test_a_config_runs_in_its_fast_setting(path, tmp_path):
    config = load_config(path, fast=True)
    name = config.task.partition(":")[0].rpartition(".")[2]
    if name in _WITH_DATA and "JAX_COMPRESS_DATA" not in os.environ:
        pytest.skip(f"{name}: needs its data; JAX_COMPRESS_DATA names their folder")
    failed = compare(config, tmp_path / "runs", say=lambda line: None)
    found = load_compare(tmp_path / "runs")
    assert failed == 0, found.failed
    assert len(found.cells) == len(config.compare.rows) * len(config.seeds)
    assert set(found.latency) == {1, 64}
    for cell in found.cells:
        assert cell.agreement == 1.0, cell.row
        assert 0.0 < cell.score <= 1.0
    # A second start finds every cell finished, and trains none again.
    results = sorted((tmp_path / "runs").glob("*/result.json"))
    before = [path.stat().st_mtime_ns for path in results]
    assert compare(config, tmp_path / "runs", say=lambda line: None) == 0
    assert before == [path.stat().st_mtime_ns for path in results]
