"""Rows by order, run: what was chosen in one stage holds in every later one."""

import numpy as np
import pytest

import compress
from compress.compare import run_cell
from compress.config import parse_config, row_config
from tests.compare import configs

STAGES = [
    {"name": "fit", "steps": 10, "learning_rate": 0.02},
    {"name": "one", "steps": 10, "learning_rate": 0.01},
    {"name": "two", "steps": 10, "learning_rate": 0.01},
]
COMPARE = {
    "techniques": {
        "P": {"prune": {"sparsity": 0.5, "every": 2, "until": 0.5}},
        "Q": {"quantize": {"weights": "int4", "activations": "int8"}},
    },
    "objectives": ["one", "two"],
    "orders": "PQ",
}


@pytest.mark.parametrize("order", [pytest.param("PQ", marks=pytest.mark.slow), "QP"])
def test_masks_and_integers_survive_whatever_order_they_come_in(order, tmp_path):
    config = parse_config({**configs.SETTINGS, "stages": STAGES, "compare": COMPARE})
    (row,) = [row for row in config.compare.rows if row.name == order]
    settings = {"seed": 0, "teachers": tmp_path / "teachers", "quiet": True}
    result = run_cell(row_config(config, row), tmp_path / "cell", **settings)
    names = {"P": "prune", "Q": "quantize"}
    assert result["techniques"] == [names[letter] for letter in order]
    assert result["sparsity"] == 0.5
    assert result["agreement"] == 1.0
    weights = compress.load(tmp_path / "cell" / "artifact").weights
    kernels = [
        weights[name].astype(np.int32) for name in ("first/kernel", "second/kernel")
    ]
    assert max(abs(kernel).max() for kernel in kernels) == 7  # the largest of a channel
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
    assert zeros >= (5 * 8 + 8 * 3) // 2  # those of the mask, and what rounds to zero
