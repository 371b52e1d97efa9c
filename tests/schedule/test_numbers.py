"""Numbers of one config of several: the same as in a program of its own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compress.config import parse_config
from compress.promotion import default_promotion
from compress.schedule import Whose, learning_rate
from tests import tiny

STEPS = np.arange(12)


def config_of(**rate: Any) -> Any:
    stages = [
        {"steps": 5, "learning_rate": 0.1},
        {"steps": 6, "learning_rate": {"schedule": "constant", **rate}},
    ]
    return parse_config({**tiny.CONFIG, "teacher": None, "stages": stages})


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_learning_rates_of_several_runs_are_those_of_each(schedule: str) -> None:
    numbers = [(0.3, 0.001), (0.7, 0.1), (0.01, 0.0)]
    configs = [
        config_of(schedule=schedule, peak=peak, warmup=2)
        if schedule == "constant"
        else config_of(schedule=schedule, peak=peak, end=end, warmup=2)
        for peak, end in numbers
    ]

    def rates(index: Any) -> Any:
        rate = learning_rate(configs[0], Whose(configs, index))
        with default_promotion():  # as where a step reads it
            return jax.vmap(rate)(STEPS)

    together = jax.jit(jax.vmap(rates))(jnp.arange(3))
    for config, found in zip(configs, together):
        with default_promotion():
            own = jax.vmap(learning_rate(config))(STEPS)
        # Products of float32.
        np.testing.assert_allclose(found, own, rtol=1e-5, atol=1e-9)


def test_a_number_all_have_is_no_array() -> None:
    configs = [config_of(peak=peak) for peak in (0.1, 0.2)]
    whose = Whose(configs, jnp.int32(1))
    assert whose.number(lambda c: c.stages[0].learning_rate.peak) == 0.1
    found = whose.number(lambda c: c.stages[1].learning_rate.peak)
    assert isinstance(found, jax.Array) and found == np.float32(0.2)
