"""Numeric settings as one more axis: a grid over them is one program under vmap."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import compress
from compress.prune import keep_largest
from tests import tiny

DATA = tiny.task().train
TEACHER = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
# By setting: learning rate, temperature, share of the teacher, sparsity.
GRID = jnp.asarray(
    [[0.1, 1.0, 0.9, 0.0], [0.02, 4.0, 0.5, 0.25], [0.1, 8.0, 0.1, 0.75]]
)


def forward(params: Any, x: Any) -> Any:
    return jax.nn.relu(x @ params["up"]) @ params["down"]


def trained(settings: jax.Array) -> Any:
    """Parameters after a few steps, as the model sees them, and the last loss."""
    rate, temperature, soft, sparsity = settings
    keys = jax.random.split(jax.random.key(0))
    params = {
        "up": jax.random.normal(keys[0], (5, 8)),
        "down": jax.random.normal(keys[1], (8, 3)),
    }
    scores = jax.tree.map(jnp.abs, params)
    masks = keep_largest(scores, jnp.round(sparsity * 64).astype(jnp.int32))
    transform = compress.chain(
        compress.prune.fixed(masks),
        compress.distill.soft_targets(
            (lambda w, x: x @ w, TEACHER),
            temperature=temperature,
            soft_weight=soft,
            hard_weight=1.0 - soft,
        ),
        compress.quantize.fake_quant(activations="int8_dynamic"),
    )
    state = compress.init(forward, transform, params, DATA["x"])
    optimizer = optax.sgd(rate)

    def step(carry: Any, _: None) -> Any:
        params, state = carry

        def loss_of(params: Any) -> Any:
            outputs = compress.apply(forward, transform)(params, state, DATA["x"])
            plain = tiny.loss(outputs, DATA)
            return compress.loss(transform, state, plain, (DATA["x"],), outputs)

        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, _ = optimizer.update(grads, optimizer.init(params))
        params = optax.apply_updates(params, updates)
        return (params, compress.update(transform, state, params)), loss

    (params, state), losses = jax.lax.scan(step, (params, state), None, length=5)
    return compress.parameters(transform, params, state), losses


def test_a_grid_of_settings_is_one_program_with_the_results_of_each_alone() -> None:
    together, losses = jax.jit(jax.vmap(trained))(GRID)
    alone = jax.jit(trained)
    for index, settings in enumerate(GRID):
        seen, own = alone(settings)
        # Summed in another order; five steps.
        np.testing.assert_allclose(losses[index], own, rtol=1e-4)
        for name, weight in seen.items():
            kept, expected = together[name].qvalue[index] != 0, weight.qvalue != 0
            np.testing.assert_array_equal(kept, expected)
    zeros = sum((x.qvalue == 0).sum((1, 2)) for x in together.values())
    assert (np.asarray(zeros) >= [0, 16, 48]).all() and zeros[2] < 56


@pytest.mark.parametrize("bad", [{"temperature": 0.0}, {"soft_weight": -1.0}])
def test_a_setting_that_is_known_is_still_checked(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        compress.distill.soft_targets((lambda w, x: x @ w, TEACHER), **bad)
