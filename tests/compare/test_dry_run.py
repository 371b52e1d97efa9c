"""A dry run predicts what a run then shows, without looking at data."""

import pathlib
from typing import Any

import pytest

from compress.compare import dry_run, run_cell
from compress.compare.dry_run import predictions_table, runs_of
from compress.config import parse_config
from tests.compare import configs
from tests.compare.made_up import SPARSITY, swept


def test_what_is_predicted_of_a_run_is_what_it_gives(tmp_path: pathlib.Path) -> None:
    config = configs.row(1)
    (found,) = dry_run(config)
    result = run_cell(config, tmp_path / "run", seed=0, teachers=tmp_path, quiet=True)
    assert found.row == config.name
    assert found.weights_bytes == result["sizes"]["file"]
    assert found.dense_bytes == result["sizes"]["dense"]
    assert found.macs == result["macs"]
    assert found.program_bytes == pytest.approx(result["program_bytes"], rel=0.1)
    # Forward, and backward to the weights, and to the second layer's input.
    products = 2 * 16 * (3 * result["macs"] - 5 * 8)
    assert found.step_flops > products
    # Parameters, their masks and two moments at least, beside 70 examples.
    assert found.peak_bytes > found.temporary_bytes + 4 * 4 * 72 + 70 * 6 * 4
    assert found.compile_seconds > 0


def test_data_are_not_looked_at() -> None:
    task = "tests.compare.configs:unreadable"
    (found,) = dry_run(parse_config({**configs.SETTINGS, "task": task}))
    assert found.peak_bytes > 10**9 * 5 * 4


def test_equal_programs_are_compiled_once() -> None:
    rows = [
        {"name": "float", "stages": 1},
        {"name": "PTQ", "use": ["ptq"], "stages": 1},
    ]
    config = configs.comparison(rows=rows)
    lines: list[str] = []
    one, other = dry_run(config, lines.append)
    assert one.compile_seconds == other.compile_seconds
    assert one.weights_bytes != other.weights_bytes
    assert lines == ["[1/2] float", "[2/2] PTQ"]
    assert [line.split()[0] for line in predictions_table([one, other]).splitlines()][
        1:
    ] == ["float", "PTQ"]


@pytest.mark.parametrize(
    ("sweep", "names"),
    [
        ({"grid": {SPARSITY: [0.2, 0.5]}}, ["sparsity=0.2", "sparsity=0.5"]),
        (
            {
                "search": {
                    "space": {SPARSITY: [0.2, 0.5]},
                    "objectives": {"score": "maximize"},
                    "trials": 1,
                }
            },
            ["tiny"],
        ),
    ],
)
def test_every_run_of_a_sweep_is_predicted(sweep: Any, names: list[str]) -> None:
    assert [run.name for run in runs_of(swept(sweep))] == names
