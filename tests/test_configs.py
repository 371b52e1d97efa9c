"""Every config in the repository is valid and runs, shrunk to seconds."""

import json
import pathlib

import pytest

from compress.compare import compare, sweep
from compress.config import json_schema, load_config
from compress.report import load_compare
from compress.task import load_task
from experiments.data import data_file
from tests.experiments.minilm_task import write_encoder
from tests.experiments.texts import write_texts

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
_QUICK = ("digits", "speech", "cifar", "shakespeare", "minilm")
# What a task reads that does not travel with the project.
_DATA = {"cifar": "cifar10_jpeg.tar.xz", "speech": "spoken_digits_wav.tar.xz"}
_TEXTS = ("minilm", "shakespeare", "wikitext")


def test_the_committed_schema_is_the_one_in_force():
    assert json.loads((CONFIGS / "schema.json").read_text()) == json_schema()


def _overrides(name, folder, monkeypatch):
    """Made up texts and weights take the place of large ones; others may be missing."""
    if name in _TEXTS:
        write_texts(folder)
        monkeypatch.setenv("JAX_COMPRESS_DATA", str(folder))
    if name == "minilm":
        write_encoder(folder / "encoder")
        return [f"data.weights={folder / 'encoder'}"]
    for part in (part for part in _DATA if name.startswith(part)):
        try:
            data_file(_DATA[part])
        except FileNotFoundError as error:
            pytest.skip(str(error))
    return []


def _rows(config):
    return len(config.compare.rows) if config.compare else config.sweep.search.trials


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[] if path.stem in _QUICK else pytest.mark.slow)
        for path in sorted(CONFIGS.glob("*.yaml"))
    ],
    ids=lambda path: path.stem,
)
def test_a_config_runs_in_its_fast_setting(path, tmp_path, monkeypatch):
    overrides = _overrides(path.stem, tmp_path / "data", monkeypatch)
    config = load_config(path, overrides, fast=True)
    run = compare if config.compare else sweep
    failed = run(config, tmp_path / "runs", say=lambda line: None)
    found = load_compare(tmp_path / "runs")
    assert failed == 0, found.failed
    assert len(found.cells) == _rows(config) * len(config.seeds)
    if config.compare:
        assert set(found.latency) == set(config.compare.latency.batches)
    task = load_task(config.task, config.data)
    classifies = task.classifies
    for cell in found.cells:
        assert cell.agreement == (1.0 if classifies else None), cell.row
        assert cell.score == pytest.approx(cell.trained_score, abs=1e-2), cell.row
        assert (cell.validation_score is None) == (task.validation is None)
        assert 0.0 < cell.score <= (1.0 if found.metric.higher_is_better else 10.0)
    # A second start finds every cell finished, and trains none again.
    results = sorted((tmp_path / "runs").glob("*/result.json"))
    before = [path.stat().st_mtime_ns for path in results]
    assert run(config, tmp_path / "runs", say=lambda line: None) == 0
    assert before == [path.stat().st_mtime_ns for path in results]
