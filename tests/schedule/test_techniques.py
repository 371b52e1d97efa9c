"""How stages of a config become transforms and learning rates."""

import jax.numpy as jnp
import numpy as np
import pytest

from compress.config import ConfigError, parse_config
from compress.schedule import build_transform, learning_rate, stage_starts
from compress.sites import Sites
from tests import tiny


def with_stages(*stages, **more):
    named = [{"name": f"s{i}", **stage} for i, stage in enumerate(stages)]
    return parse_config({**tiny.CONFIG, "stages": named, **more})


def test_stages_follow_one_another():
    assert stage_starts(parse_config(tiny.CONFIG)) == [0, 15, 35, 50]


def test_the_learning_rate_goes_by_stage():
    config = with_stages(
        {"steps": 10, "learning_rate": 0.1},
        {
            "steps": 10,
            "learning_rate": {"schedule": "linear", "peak": 0.2, "end": 0.1},
        },
        {
            "steps": 10,
            "learning_rate": {"schedule": "cosine", "peak": 0.4, "warmup": 4},
        },
    )
    rate = learning_rate(config)
    at = {step: float(rate(step)) for step in (0, 9, 10, 15, 20, 22, 24, 27, 30)}
    # 0.2 to 0.1 over 10 steps; warmup 0 to 0.4 over 4, then half a cosine over 6.
    expected = [0.1, 0.1, 0.2, 0.15, 0.0, 0.2, 0.4, 0.2, 0.0]
    np.testing.assert_allclose(list(at.values()), expected, atol=1e-7)


def test_the_chain_prunes_before_it_quantizes_whatever_the_stages_say():
    config = with_stages(
        {"steps": 5, "learning_rate": 0.1, "quantize": {}},
        {"steps": 5, "learning_rate": 0.1, "prune": {"sparsity": 0.5}},
        teacher=None,
    )
    name = build_transform(config).name
    assert name == "chain(prune.connections, quantize.fake_quant)"


def test_distillation_acts_in_its_stages_only():
    config = with_stages(
        {"steps": 5, "learning_rate": 0.1},
        {"steps": 5, "learning_rate": 0.1, "distill": {"hard_weight": 0.0}},
        {"steps": 5, "learning_rate": 0.1},
    )
    teacher = (lambda params, x: x + params, jnp.ones((1, 3)))
    transform = build_transform(config, teacher)
    memory = transform.init({}, Sites(()))
    x = jnp.eye(3)
    losses = [
        float(transform.loss(memory, jnp.int32(step), jnp.float32(7.0), (x,), x))
        for step in (4, 5, 9, 10)
    ]
    # The student is the teacher up to a constant: the divergence is zero.
    np.testing.assert_allclose(losses, [7.0, 0.0, 0.0, 7.0], atol=1e-5)


def test_pruning_has_one_setting_for_all_stages():
    prune = {"sparsity": 0.5, "every": 5}
    stages = [
        {"steps": 5, "learning_rate": 0.1, "prune": prune},
        {"steps": 5, "learning_rate": 0.1, "prune": {**prune, "every": 10}},
    ]
    with pytest.raises(ConfigError, match=r"prune has 5; it must be the same"):
        with_stages(*stages, teacher=None)


def test_distilling_without_a_teacher_is_refused():
    with pytest.raises(ValueError, match="there is no teacher"):
        build_transform(parse_config(tiny.CONFIG))
