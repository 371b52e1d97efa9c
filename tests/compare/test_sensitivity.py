"""What it costs to compress each parameter alone."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import compress.compare.sensitivity as sensitivity
from compress.compare.sensitivity import (
    _pruned,
    _rounded,
    _sample,
    measure_sensitivity,
)
from compress.sites import find_sites
from tests import tiny
from tests.compare import configs
from tests.compare.conftest import ROWS


def test_every_parameter_has_its_costs_in_the_order_of_the_program(
    finished_grid: pathlib.Path,
) -> None:
    found = json.loads((finished_grid / "sensitivity.json").read_text())
    result = json.loads((finished_grid / "float-seed0/result.json").read_text())
    assert (found["row"], found["seed"]) == ("float", 0)
    assert found["checkpoint_hash"] == result["checkpoint_hash"]
    assert [site["name"] for site in found["sites"]] == [
        "first/kernel",
        "second/kernel",
    ]
    assert (found["sample"], found["num_examples"]) == ("train", 70)  # all there are
    for site in found["sites"]:
        assert list(site["costs"]) == ["80% zeros", "50% zeros", "int4", "int8"]
        losses = {how: cost["loss"] for how, cost in site["costs"].items()}
        assert losses["80% zeros"] > abs(losses["int8"])
        assert abs(losses["int8"]) < 0.01


def test_what_is_not_finished_or_not_float_is_not_measured(
    tmp_path: pathlib.Path,
) -> None:
    config = configs.comparison(ROWS, export={"platforms": ["cpu"]})
    assert measure_sensitivity(config, tmp_path, {"P": 0}) is None
    only_pruned = configs.comparison(ROWS[1:], export={"platforms": ["cpu"]})
    assert measure_sensitivity(only_pruned, tmp_path, {"P": 0}) is None


def test_the_smallest_weights_go_and_ties_go_by_position() -> None:
    weights = np.array([[3.0, -1.0], [1.0, 2.0], [0.5, -4.0]], np.float32)
    expected = [[3.0, 0.0], [0.0, 2.0], [0.0, -4.0]]
    np.testing.assert_array_equal(_pruned(weights, 0.5), expected)
    tied = np.ones(4, np.float32)
    np.testing.assert_array_equal(_pruned(tied, 0.5), [0, 0, 1, 1])


def test_rounding_is_that_of_quantization_after_training() -> None:
    model = tiny.build(jax.random.key(0))
    predict = model.predictor()
    sites = find_sites(predict, model.params, jnp.zeros((1, 5)))
    for grid, largest in (("int8", 127), ("int4", 7)):
        rounded = _rounded(model.params, sites, grid)
        kernel = model.params["first"]["kernel"]
        scale = np.abs(kernel).max(0, keepdims=True) / largest
        steps = np.asarray(rounded["first/kernel"]) / scale
        np.testing.assert_allclose(steps, np.round(kernel / scale), atol=1e-4)
        np.testing.assert_array_equal(
            rounded["first/bias"], model.params["first"]["bias"]
        )


def test_the_sample_is_smaller_for_a_larger_network_and_no_test_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, task = tiny.build(jax.random.key(0)), tiny.task()
    sites = find_sites(model.predictor(), model.params, jnp.zeros((1, 5)))
    task = task._replace(validation={k: v[:50] for k, v in task.train.items()})
    # 64 multiply-accumulates, two parameters, four ways, a factor of two for fear.
    for macs, count in ((64 * 16 * 20, 20), (1.0, 16), (1e9, 50)):
        monkeypatch.setattr(sensitivity, "_MACS", macs)
        part, batch = _sample(task, sites, 2)
        assert part == "validation"
        np.testing.assert_array_equal(batch["x"], task.validation["x"][-count:])
