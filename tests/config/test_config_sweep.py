"""`sweep:` in a config: what it declares, and what is wrong with it."""

import copy
import pathlib
from typing import Any

import pytest

from compress.config import (
    ConfigError,
    combinations,
    config_hash,
    load_config,
    parse_config,
    parse_constraint,
    row_config,
    with_rows,
)
from tests import tiny

SPARSITY = "stages[1].prune.sparsity"
SEARCH = {
    "space": {SPARSITY: {"low": 0.5, "high": 0.9}},
    "objectives": {"score": "maximize", "bytes": "minimize"},
    "trials": 4,
}


def parsed(sweep: Any, **changes: Any) -> Any:
    return parse_config({**copy.deepcopy(tiny.CONFIG), "sweep": sweep, **changes})


def problem(sweep: Any, **changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parsed(sweep, **changes)
    assert len(caught.value.problems) == 1, caught.value
    return caught.value.problems[0]


def rows_of(sweep: Any) -> dict[str, Any]:
    config = parsed(sweep)
    compared = with_rows(config, combinations(config.sweep))
    return {row.name: row_config(compared, row) for row in compared.compare.rows}


def test_a_grid_is_every_combination_in_order_named_by_what_it_sets() -> None:
    rows = rows_of({"grid": {SPARSITY: [0.5, 0.8], "batch_size": [8, 16]}})
    assert list(rows) == [
        "sparsity=0.5, batch_size=8",
        "sparsity=0.5, batch_size=16",
        "sparsity=0.8, batch_size=8",
        "sparsity=0.8, batch_size=16",
    ]
    found = rows["sparsity=0.8, batch_size=8"]
    assert (found.stages[1].prune.sparsity, found.batch_size) == (0.8, 8)
    # All techniques of the config stay on, and nothing else changes.
    assert found.stages[2].quantize is not None and found.teacher is not None
    changed = {"batch_size": 8, "stages": [dict(x) for x in tiny.CONFIG["stages"]]}
    changed["stages"][1]["prune"] = {**changed["stages"][1]["prune"], "sparsity": 0.8}
    assert config_hash(found) == config_hash(parse_config({**tiny.CONFIG, **changed}))


def test_a_list_may_add_and_remove_techniques() -> None:
    rows = rows_of(
        {
            "list": [
                {},
                {"stages[1].prune": None, "stages[1].distill": None},
                {"stages[0].prune": {"sparsity": 0.1, "every": 4}, SPARSITY: 0.3},
            ]
        }
    )
    assert list(rows) == [
        "unchanged",
        "stages[1].prune=null, distill=null",
        'stages[0].prune={"sparsity": 0.1, "every": 4}, sparsity=0.3',
    ]
    plain, without, more = rows.values()
    assert plain.stages[1].prune.sparsity == 0.5
    assert without.stages[1].prune is None and without.teacher is None
    assert [stage.prune and stage.prune.sparsity for stage in more.stages] == [
        0.1,
        0.3,
        None,
    ]


def test_names_are_as_long_as_it_takes_to_tell_paths_apart() -> None:
    rows = rows_of({"grid": {"stages[0].steps": [5], "stages[2].steps": [6]}})
    assert list(rows) == ["stages[0].steps=5, stages[2].steps=6"]


def test_a_sweep_leaves_the_identity_of_a_run_alone() -> None:
    assert config_hash(parsed({"grid": {"batch_size": [8]}})) == config_hash(
        parse_config(tiny.CONFIG)
    )


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({}, "give one of grid, list and search (here: none)"),
        ({"grid": {"batch_size": [8]}, "list": [{}]}, "(here: grid and list)"),
        ({"grid": {}}, "sweep.grid: found an empty mapping"),
        ({"grid": {"batch_size": []}}, "sweep.grid.batch_size: found an empty list"),
        ({"list": []}, "sweep.list: found an empty list"),
        (
            {"grid": {"stages[1].prune.sparcity": [0.5, 0.6]}},
            "run 'sparcity=0.5': unknown key; did you mean 'sparsity'?",
        ),
        ({"grid": {"stages[7].steps": [5]}}, "no such item: there are 3"),
        ({"grid": {"stages 1": [5]}}, "is not a path; write keys joined by dots"),
        (
            {"grid": {SPARSITY: [0.5, 1.5]}},
            "stages[1].prune.sparsity: run 'sparsity=1.5': found 1.5; must be below 1",
        ),
        ({"grid": {"batch_size": [8, 8]}}, "'batch_size=8' is there twice"),
        ({"grid": {"seeds": [[1]]}}, "is the same for all runs of a sweep; remove it"),
        ({"list": [{"name": "x"}]}, "is the same for all runs of a sweep; remove it"),
        (
            {"search": {**SEARCH, "objectives": {"scor": "maximize"}}},
            "no measure is called 'scor'; did you mean 'score'?",
        ),
        (
            {"search": {**SEARCH, "objectives": {"score": "up"}}},
            "use 'maximize' or 'minimize'",
        ),
        (
            {"search": {**SEARCH, "constraints": ["bytes < 200k"]}},
            "found 'bytes < 200k'; write a measure, <= or >=, and a number",
        ),
        (
            {"search": {**SEARCH, "constraints": ["byte <= 200k"]}},
            "no measure is called 'byte'; did you mean 'bytes'?",
        ),
        (
            {"search": {**SEARCH, "space": {SPARSITY: {"low": 0.5, "high": 1.5}}}},
            "run 'sparsity=1.5': found 1.5; must be below 1",
        ),
        (
            {"search": {**SEARCH, "space": {SPARSITY: {"low": 0.9, "high": 0.5}}}},
            "low (0.9) must be below high (0.5)",
        ),
        (
            {"search": {**SEARCH, "space": {SPARSITY: {"low": 0.5}}}},
            "give low and high, or a list of choices",
        ),
        (
            {"search": {**SEARCH, "space": {SPARSITY: {"lo": 0.5, "high": 0.6}}}},
            "unknown key; did you mean 'low'?",
        ),
        (
            {"search": {**SEARCH, "space": {"batch_size": [8, 0]}}},
            "run 'batch_size=0': found 0; must be at least 1",
        ),
        (
            {
                "search": {
                    **SEARCH,
                    "space": {SPARSITY: {"low": 0, "high": 0.5, "log": True}},
                }
            },
            "log needs a low above 0, and takes no step",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(sweep: Any, message: str) -> None:
    assert message in problem(sweep)


def test_what_is_wrong_without_the_sweep_is_said_once() -> None:
    found = problem({"grid": {SPARSITY: [0.5, 0.6]}}, teacher=None)
    assert "distillation needs a teacher" in found and "run" not in found


def test_a_problem_of_a_file_names_its_line(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "task: tests.tiny:task\nbatch_size: 8\n"
        "stages: [{steps: 5, learning_rate: 0.1}]\n"
        'sweep:\n  grid:\n    batch_size: [8]\n    "stages[0].stepps": [5]\n'
    )
    with pytest.raises(ConfigError, match=r"run.yaml:7: .*did you mean 'steps'"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "value", "violation"),
    [
        ("bytes <= 200k", 300e3, 0.5),
        ("bytes<=200k", 100e3, -0.5),
        ("macs <= 1.5M", 3e6, 1.0),
        ("score >= 97 %", 0.97, 0.0),
        ("score >= 0.8", 0.4, 0.5),
        ("bops <= 2e9", 1e9, -0.5),
    ],
)
def test_a_violation_is_relative_to_its_bound(
    text: str, value: float, violation: float
) -> None:
    assert parse_constraint(text).violation(value) == pytest.approx(violation)


@pytest.mark.parametrize(
    "text",
    ["bytes", "<= 3", "bytes <= ", "bytes <= -3", "bytes <= 3kB", "bytes <= 3 4",
     "bytes == 3", "200k >= bytes", "score >= 0.9 bytes", "bytes <= 1e999", "nan"],
)  # fmt: skip
def test_a_constraint_that_does_not_parse_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write a measure|finite bound"):
        parse_constraint(text)
