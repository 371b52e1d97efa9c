"""Searches: what optuna is told, and that going on is as not having stopped."""

import csv
import json
import pathlib
import sys
from typing import Any

import pytest

import tests.compare.made_up as module
from compress.compare import CellError
from compress.report import load_compare
from tests.compare.made_up import SPARSITY, MadeUp, run, swept

optuna = pytest.importorskip("optuna")

SEARCH = {
    "space": {
        SPARSITY: {"low": 0.1, "high": 0.9},
        "stages[1].steps": {"low": 5, "high": 50, "log": True},
        "stages[0].learning_rate": [0.01, 0.02],
    },
    "objectives": {"score": "maximize", "bitmask_bytes": "minimize"},
    "constraints": ["score >= 40 %", "bytes <= 1M"],
    "trials": 6,
    "at_a_time": 4,
}


def searched(**changes: Any) -> Any:
    return swept({"search": {**SEARCH, **changes}})


def study(directory: pathlib.Path) -> Any:
    backend = optuna.storages.journal.JournalFileBackend(
        str(directory / "search.journal")
    )
    storage = optuna.storages.JournalStorage(backend)
    return optuna.load_study(study_name="sweep", storage=storage)


def tried(directory: pathlib.Path) -> list[dict[str, Any]]:
    return [trial.params for trial in study(directory).trials]


def test_trials_are_told_the_mean_of_their_seeds_and_what_they_break(
    made_up: MadeUp, tmp_path: pathlib.Path
) -> None:
    failed, lines = run(searched(), tmp_path)
    assert failed == 0 and len(made_up.done) == 12
    cells = {(cell.row, cell.seed): cell for cell in load_compare(tmp_path).cells}
    trials = study(tmp_path).trials
    rows = list(dict.fromkeys(row for row, _ in cells))
    assert len(trials) == len(rows) == 6
    for trial, row in zip(trials, rows, strict=True):
        assert row.startswith(f"#{trial.number} sparsity=")
        mean = sum(cells[row, seed].score for seed in (0, 1)) / 2
        assert trial.values == [mean, cells[row, 0].sizes["bitmask"]]
        assert isinstance(trial.params["stages[1].steps"], int)
    with (tmp_path / "sweep.csv").open() as file:
        table = list(csv.DictReader(file))
    feasible = {line["run"] for line in table if line["feasible"] == "True"}
    scores = {row: (cells[row, 0].score + cells[row, 1].score) / 2 for row in rows}
    assert feasible == {row for row, score in scores.items() if score >= 0.4}
    assert 0 < len(feasible) < 6, "the case shows nothing"
    best = {line["run"] for line in table if line["best"] == "True"}
    assert best <= feasible
    assert {line[6:].partition(":")[0] for line in lines if line[:5] == "best:"} == best
    bytes_of = {row: cells[row, 0].sizes["bitmask"] for row in rows}
    for row in feasible:
        beaten = any(
            scores[o] >= scores[row]
            and bytes_of[o] <= bytes_of[row]
            and (scores[o], bytes_of[o]) != (scores[row], bytes_of[row])
            for o in feasible
        )
        assert (row in best) == (not beaten)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(
    made_up: MadeUp, tmp_path: pathlib.Path, sampler: str
) -> None:
    config = searched(sampler=sampler, trials=10, at_a_time=3)
    run(config, tmp_path / "whole")
    whole = tried(tmp_path / "whole")
    different = len({json.dumps(params) for params in whole})
    assert different > 6, "the sampler draws the same again"
    cell, count = made_up.cell, len(made_up.done)
    assert count == 2 * different, "the same values were run twice"

    for stop in (3, 9):  # in the first batch and in the second

        def interrupted(*args: Any, stop: int = stop, **settings: Any) -> Any:
            if len(made_up.done) - count >= stop:
                raise KeyboardInterrupt
            return cell(*args, **settings)

        made_up.cell = interrupted
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "parts")
    made_up.cell = cell
    run(config, tmp_path / "parts")
    assert tried(tmp_path / "parts") == whole
    assert len(made_up.done) == 2 * count, "a finished cell was run again"
    states = {trial.state.name for trial in study(tmp_path / "parts").trials}
    assert states == {"COMPLETE"}

    # More trials may be asked for later; the first ones stay.
    run(searched(sampler=sampler, trials=12, at_a_time=3), tmp_path / "parts")
    assert tried(tmp_path / "parts")[:10] == whole
    assert len(tried(tmp_path / "parts")) == 12


def test_a_trial_with_a_failed_cell_is_told_as_failed(
    made_up: MadeUp, tmp_path: pathlib.Path
) -> None:
    choices = {SPARSITY: [0.2, 0.5]}
    made_up.failing = {0.5}
    failed, _ = run(searched(space=choices), tmp_path)
    states = {t.params[SPARSITY]: t.state.name for t in study(tmp_path).trials}
    assert states == {0.2: "COMPLETE", 0.5: "FAIL"}
    assert failed > 0


def test_values_that_do_not_fit_together_fail_their_trial_alone(
    made_up: MadeUp, tmp_path: pathlib.Path
) -> None:
    # Each end is possible alone: it is 20 steps of warmup in 10 steps that is not.
    space = {
        "stages[1].learning_rate.warmup": [0, 20],
        "stages[1].steps": [10, 40],
    }
    rate = {"schedule": "cosine", "peak": 0.01}
    stages = [
        {"steps": 10, "learning_rate": 0.02},
        {"steps": 40, "learning_rate": rate, "prune": {"sparsity": 0.5}},
    ]
    config = swept({"search": {**SEARCH, "space": space, "trials": 8}}, stages=stages)
    failed, lines = run(config, tmp_path)
    states = {tuple(t.params.values()): t.state.name for t in study(tmp_path).trials}
    assert states.pop((20, 10)) == "FAIL"
    assert set(states.values()) == {"COMPLETE"} and failed == 0
    assert any("left out" in line and "only 10 steps follow" in line for line in lines)


def test_a_measure_the_task_does_not_have_is_said(
    made_up: MadeUp, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_none = lambda *args: {**result_of(*args), "agreement": None}  # noqa: E731
    result_of = module.result
    monkeypatch.setattr(module, "result", with_none)
    with pytest.raises(CellError, match="'agreement' is not measured for this task"):
        run(searched(objectives={"agreement": "maximize"}), tmp_path)


def test_a_search_that_looks_at_the_test_set_says_so(
    made_up: MadeUp, tmp_path: pathlib.Path
) -> None:
    warning = "`score`, of the test set"
    assert any(warning in line for line in run(searched(), tmp_path / "test")[1])
    fair = {"objectives": {"bytes": "minimize"}, "constraints": []}
    assert not any(warning in x for x in run(searched(**fair), tmp_path / "fair")[1])


def test_a_search_without_optuna_says_how_to_get_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"pip install .jax-compress\[search\]"):
        run(searched(), tmp_path)
