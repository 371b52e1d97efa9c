"""Cells that share a training or a program, and are otherwise cells of their own."""

import itertools
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

import compress
import compress.compare.grid as grid
import compress.compare.groups as groups
from compress.compare import compare
from compress.compare.groups import Group, groups_of, run_group
from compress.config import Config, row_config
from compress.data import Source
from compress.report import load_compare
from compress.train.metrics import read_metrics
from tests import tiny
from tests.compare import configs
from tests.compare.test_grid import in_this_process

FLOAT, PTQ = {"name": "float", "use": ["prune"]}, configs.ROWS[1]
SEEDS = (0, 1)


def configs_of(**changes: Any) -> dict[str, Config]:
    settings = {"rows": [FLOAT, PTQ], "seeds": SEEDS, "vmap_seeds": 2, **changes}
    config = configs.comparison(**settings)
    assert config.compare is not None
    return {row.name: row_config(config, row) for row in config.compare.rows}


def all_cells(rows: Any) -> list[tuple[str, int]]:
    return list(itertools.product(rows, SEEDS))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two rows of one training, two seeds each."""
    root = tmp_path_factory.mktemp("groups")
    rows = configs_of()
    return (
        root,
        rows,
        {(r, s): out for r, s, out in run_group(rows, all_cells(rows), root)},
    )


def test_rows_that_differ_in_their_export_are_one_group() -> None:
    other = {"name": "longer", "use": ["prune"], "set": {"stages[0].steps": 11}}
    rows = configs_of(rows=[FLOAT, other, PTQ])
    assert groups_of(rows, (0, 1, 2), {}) == [
        Group(("float", "P + PTQ"), (0, 1)),
        Group(("float", "P + PTQ"), (2,)),
        Group(("longer",), (0, 1)),
        Group(("longer",), (2,)),
    ]


def test_seeds_that_cannot_be_trained_together_are_groups_of_their_own() -> None:
    found = groups_of(configs_of(), SEEDS, {"float": "of its convolutions"})
    assert [group.seeds for group in found] == [(0,), (1,)]


def sparser(name: str, sparsity: float, use: Any = ("prune",)) -> dict[str, Any]:
    changes = {"stages[1].prune.sparsity": sparsity}
    return {"name": name, "use": list(use), "set": changes}


def test_rows_that_differ_in_numbers_are_one_group_of_at_most_so_many_runs() -> None:
    other = {"name": "longer", "use": ["prune"], "set": {"stages[0].steps": 11}}
    rows = [FLOAT, sparser("0.7", 0.7), other, PTQ, sparser("0.8", 0.8)]

    names = ("float", "P + PTQ", "0.7", "0.8")
    found = groups_of(configs_of(rows=rows, vmap_seeds=6), SEEDS, {})
    assert found == [Group(names, SEEDS), Group(("longer",), SEEDS)]
    # Five runs are two rows; a row at a time where there are more seeds than runs.
    found = groups_of(configs_of(rows=rows, vmap_seeds=5), SEEDS, {})
    assert [g.rows for g in found] == [names[:3], ("0.8",), ("longer",)]
    found = groups_of(configs_of(rows=rows, vmap_seeds=2), (0, 1, 2), {})
    assert [g.seeds for g in found] == [(0, 1), (2,)] * 4


@pytest.mark.parametrize(("most", "apart"), [(1, ()), (6, ("float", "0.7", "0.8"))])
def test_rows_of_other_numbers_are_groups_of_their_own_unless_they_may_join(
    most: int, apart: Any
) -> None:
    rows = [FLOAT, sparser("0.7", 0.7), PTQ, sparser("0.8", 0.8)]
    reasons = dict.fromkeys(apart, "of the weather")
    found = groups_of(configs_of(rows=rows, vmap_seeds=most), (0,), reasons)
    assert [g.rows for g in found] == [("float", "P + PTQ"), ("0.7",), ("0.8",)]


@pytest.mark.slow
def test_rows_of_one_program_have_their_own_results(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "train", None)  # of single runs
    rows = configs_of(rows=[FLOAT, sparser("sparser", 0.75)])
    cells = [(row, 0) for row in rows]
    for row, _, outcome in run_group(rows, cells, tmp_path):
        assert not isinstance(outcome, Exception), outcome
        folder = tmp_path / groups.cell_folder(row, 0)
        written = json.loads((folder / "config.json").read_text())
        (sparsity,) = (s["prune"]["sparsity"] for s in written["stages"] if s["prune"])
        assert sparsity == (0.75 if row == "sparser" else 0.5)
        weights = compress.load(folder / "artifact").weights
        zeros = [(w == 0).mean() for name, w in weights.items() if "kernel" in name]
        assert np.mean(zeros) == pytest.approx(sparsity, abs=0.15)
        last = read_metrics(folder / "metrics.jsonl")[-1]
        assert last["sparsity"] == pytest.approx(sparsity, abs=0.01)
    assert list((tmp_path / ".groups").iterdir()) == []


def test_rows_of_one_seed_may_be_trained_together_unless_something_forbids_it() -> None:
    rows = configs_of(rows=[FLOAT, sparser("0.7", 0.7), PTQ])
    task = tiny.task()
    assert groups.reasons_apart(rows, (0,), task) == {}
    files = task._replace(train=Source(lambda index: {}, 70, "tiny"))
    reasons = groups.reasons_apart(rows, (0,), files)
    assert set(reasons) == set(rows) and "from files" in reasons["0.7"]
    # One training alone shares a program with nothing.
    alone = {name: rows[name] for name in ("float", "P + PTQ")}
    assert groups.reasons_apart(alone, (0,), files) == {}


def test_units_whose_cost_depends_on_the_export_are_trained_again() -> None:
    stages = [
        {"steps": 4, "learning_rate": 0.1, "shrink": {"budget": {"bops": 0.5}}},
        {"steps": 4, "learning_rate": 0.1},
    ]
    rows = [{"name": "a", "use": ["shrink"]}, {"name": "b", "use": ["shrink", "ptq"]}]
    found = groups_of(configs_of(rows=rows, stages=stages), SEEDS, {})
    assert [group.rows for group in found] == [("a",), ("b",)]


def test_every_cell_has_its_own_result_and_files(ran: Any) -> None:
    root, _, outcomes = ran
    assert len(outcomes) == 4
    for (row, seed), result in outcomes.items():
        folder = root / groups.cell_folder(row, seed)
        assert json.loads((folder / "result.json").read_text()) == result
        assert (result["row"], result["seed"]) == (row, seed)
        assert json.loads((folder / "config.json").read_text())["name"] == row
        run = json.loads((folder / "run.json").read_text())
        assert (run["seed"], run["program_seeds"]) == (seed, list(SEEDS))
        assert (folder / "metrics.jsonl").exists()
        # Its own proofs, on its own numbers.
        manifest = compress.load(folder / "artifact").manifest
        assert manifest["verification"]["items"] > 0
        assert manifest["metadata"]["seed"] == seed
        assert result["agreement"] == 1.0
    assert not (root / ".groups/float-seed0-to-1").exists()


def test_rows_of_one_training_hold_the_same_weights_in_other_grids(ran: Any) -> None:
    root, _, outcomes = ran
    hashes = {key: result["checkpoint_hash"] for key, result in outcomes.items()}
    assert hashes["float", 0] == hashes["P + PTQ", 0] != hashes["float", 1]
    weights = compress.load(root / "P_+_PTQ-seed0/artifact").weights
    floats = compress.load(root / "float-seed0/artifact").weights
    assert weights["first/kernel"].dtype == np.int8
    scale = weights["first/kernel::scale"]
    # Half a step.
    near = np.abs(weights["first/kernel"] * scale - floats["first/kernel"])
    assert (near <= 0.5001 * scale).all()


def test_the_artifact_of_a_seed_is_the_one_it_would_have_alone(
    ran: Any, tmp_path: pathlib.Path
) -> None:
    root, rows, _ = ran
    alone = {"P + PTQ": rows["P + PTQ"]}
    for _, _, outcome in run_group(alone, [("P + PTQ", 1)], tmp_path):
        assert not isinstance(outcome, Exception), outcome
    ours, theirs = (
        compress.load(folder / "P_+_PTQ-seed1/artifact") for folder in (root, tmp_path)
    )
    for name, array in theirs.weights.items():
        # One step, where a weight is rounded the other way; scales by a rounding.
        allowed = {"atol": 1} if array.dtype == np.int8 else {"rtol": 1e-4}
        np.testing.assert_allclose(
            np.float64(ours.weights[name]), np.float64(array), err_msg=name, **allowed
        )


def test_a_group_that_is_finished_does_nothing(
    ran: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, rows, _ = ran
    monkeypatch.setattr(groups, "train_many", None)
    assert list(run_group(rows, all_cells(rows), root)) == []


def test_a_row_added_later_is_shipped_from_the_training_there_is(
    ran: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _, outcomes = ran
    monkeypatch.setattr("compress.train.many._Group", None)
    monkeypatch.setattr("compress.train.loop._Run.to_the_end", None)
    later = {**PTQ, "name": "later", "set": {"export.quantize.weights": "int4"}}
    rows = configs_of(rows=[FLOAT, PTQ, later])
    found = {
        (row, seed): out for row, seed, out in run_group(rows, all_cells(rows), root)
    }
    assert set(found) == {("later", 0), ("later", 1)}
    for seed in SEEDS:
        result = found["later", seed]
        assert result["checkpoint_hash"] == outcomes["float", seed]["checkpoint_hash"]


def test_an_export_that_fails_leaves_the_other_cells_alone(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ship = groups.ship_cell

    def fail_for_seed_0(*args: Any, seed: int) -> Any:
        if seed == 0:
            raise ValueError("no space")
        return ship(*args, seed=seed)

    monkeypatch.setattr(groups, "ship_cell", fail_for_seed_0)
    rows = {"float": configs_of()["float"]}
    found = {seed: out for _, seed, out in run_group(rows, all_cells(rows), tmp_path)}
    assert isinstance(found[0], ValueError) and isinstance(found[1], dict)
    said = json.loads((tmp_path / "float-seed0/error.json").read_text())
    assert said == {"row": "float", "seed": 0, "error": "ValueError: no space"}
    # What was trained is not lost: the same command ships it.
    monkeypatch.undo()
    steps = (tmp_path / "float-seed0/metrics.jsonl").read_text()
    ((_, seed, result),) = run_group(rows, all_cells(rows), tmp_path)
    assert seed == 0 and isinstance(result, dict)
    assert (tmp_path / "float-seed0/metrics.jsonl").read_text() == steps
    assert not (tmp_path / "float-seed0/error.json").exists()


def test_a_comparison_says_why_seeds_were_trained_one_by_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "run_jobs", in_this_process)
    monkeypatch.setattr(grid, "measure_rows", lambda *args: [])
    monkeypatch.setattr(groups, "why_apart", lambda *args: "of the weather")
    monkeypatch.setattr(grid, "_run", lambda *args: 0)
    config = configs.comparison(rows=[FLOAT], seeds=SEEDS, vmap_seeds=2)
    compare(config, tmp_path, say=lambda line: None)
    (note,) = load_compare(tmp_path).notes
    assert note == "float: runs were trained one by one, since of the weather."


def test_the_number_of_seeds_in_one_program_makes_no_other_run() -> None:
    one, many = configs_of(vmap_seeds=1)["float"], configs_of(vmap_seeds=2)["float"]
    assert compress.config.config_hash(one) == compress.config.config_hash(many)


LONG = {
    "stages": [
        {"steps": 150, "learning_rate": 0.01},
        {"steps": 150, "learning_rate": 0.01, "prune": {"sparsity": 0.5}},
    ],
    "log_every": 5,
    "checkpoint_every": 5,
    "export": {"platforms": ["cpu"]},
}


def started(directory: pathlib.Path) -> subprocess.Popen[bytes]:
    """A comparison of two seeds in one program, in a process of its own."""
    script = f"""
import pathlib
import subprocess
import sys
import time
from compress.compare import compare
from tests.compare import configs, test_groups
if __name__ == "__main__":
    config = configs.comparison(
        rows=[test_groups.FLOAT], seeds=(0, 1), vmap_seeds=2, **test_groups.LONG)
    raise SystemExit(compare(config, pathlib.Path({str(directory)!r}), workers=1))
"""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "main.py").write_text(script)
    root = pathlib.Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, directory / "main.py"],
        env={**os.environ, "PYTHONPATH": str(root)},
    )


@pytest.mark.slow
def test_a_group_that_is_killed_goes_on_to_the_same_bits(
    tmp_path: pathlib.Path,
) -> None:
    assert started(tmp_path / "whole").wait() == 0
    process = started(tmp_path / "cut")
    checkpoints = tmp_path / "cut/.groups/float-seed0-to-1/checkpoints"
    for _ in range(6000):
        if len(list(checkpoints.glob("[0-9]*"))) == 2:
            break
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not list((tmp_path / "cut").glob("float-seed*/checkpoints"))
    begun = read_metrics(tmp_path / "cut/float-seed0/metrics.jsonl")
    assert 0 < begun[-1]["step"] < 300
    time.sleep(2)  # its worker notices that the parent is gone
    assert started(tmp_path / "cut").wait() == 0
    for seed in SEEDS:
        hashes = [
            json.loads((tmp_path / way / f"float-seed{seed}/result.json").read_text())[
                "checkpoint_hash"
            ]
            for way in ("whole", "cut")
        ]
        assert hashes[0] == hashes[1]
        lines = read_metrics(tmp_path / f"cut/float-seed{seed}/metrics.jsonl")
        assert [line["step"] for line in lines] == list(range(5, 301, 5))
