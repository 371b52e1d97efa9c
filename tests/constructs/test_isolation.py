"""Nothing global is patched: who was traced before does not matter."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import compress
from tests.constructs.construct import fill

# One function, traced once and kept by JAX, that all three models call.
shared_layer = jax.jit(lambda w, x: jax.nn.relu(x @ w))


def forward(params: Any, x: Any) -> Any:
    x = jax.lax.scan(lambda x, w: (shared_layer(w, x), None), x, params["layers"])[0]
    return shared_layer(params["first"], x) @ params["head"]


SHAPES = {"first": (6, 6), "layers": (2, 6, 6), "head": (6, 3)}
TRANSFORM = compress.quantize.fake_quant(activations="int8_dynamic")


def models() -> dict[str, Any]:
    """Each as a function of `x`, never traced before."""
    params, teacher = fill(SHAPES, jnp.float32, 0), fill(SHAPES, jnp.float32, 1)
    state = compress.init(forward, TRANSFORM, params, jnp.zeros((5, 6)))
    student = compress.apply(forward, TRANSFORM)
    return {
        "baseline": lambda x: forward(params, x),
        "teacher": lambda x: forward(teacher, x),
        "student": lambda x: student(params, state, x),
    }


def outputs(names: Any, jitted: bool) -> dict[str, Any]:
    """Of the models, traced in this order in an empty process."""
    jax.clear_caches()
    x, built = fill((5, 6), jnp.float32, 2), models()
    return {
        name: (jax.jit(built[name]) if jitted else built[name])(x) for name in names
    }


@pytest.mark.parametrize(
    "jitted",
    [True, pytest.param(False, marks=pytest.mark.slow)],
    ids=["jitted", "eager"],
)
def test_models_traced_in_any_order_compute_what_each_computes_alone(
    jitted: bool,
) -> None:
    names = ("baseline", "teacher", "student")
    alone = {name: outputs([name], jitted)[name] for name in names}
    # Eagerly every operation is compiled again: the orders that matter, student first
    # and last.
    orders = list(itertools.permutations(names))
    for order in orders if jitted else [names, names[::-1]]:
        for name, output in outputs(order, jitted).items():
            np.testing.assert_array_equal(output, alone[name], err_msg=f"{order}")
    assert not np.array_equal(alone["student"], alone["baseline"])


def test_a_train_step_with_all_three_gives_each_its_own_numbers() -> None:
    x, built = fill((5, 6), jnp.float32, 2), models()
    together = jax.jit(lambda x: {name: model(x) for name, model in built.items()})(x)
    for name, model in models().items():
        # In one program XLA may fuse otherwise.
        np.testing.assert_allclose(together[name], jax.jit(model)(x), rtol=1e-5)
