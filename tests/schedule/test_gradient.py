"""A batch in parts, and activations computed again, give the gradient of the batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import compress
from compress import prune, quantize
from compress.config import ConfigError, parse_config
from compress.schedule.gradient import build_gradient
from tests import tiny


def certain(task: compress.Task) -> compress.Model:
    """The tiny model without its dropout, so that examples do not depend on keys."""
    model = task.build(jax.random.key(0))

    def forward(params: Any, state: Any, x: Any, **settings: Any) -> Any:
        return model.forward(params, state, x)

    return model._replace(forward=forward)


def gradient(transform: compress.Transform, **changes: Any) -> Any:
    """In the second step: ranges are known, so each part is quantized alike."""
    task = tiny.task()
    config, model = parse_config(tiny.CONFIG), certain(task)
    inputs = (jax.ShapeDtypeStruct((16, 5), jnp.float32),)
    state = compress.init(
        model.forward, transform, model.params, model.model_state, *inputs
    )
    batch = {name: jnp.asarray(x[:16]) for name, x in task.train.items()}
    rest = (batch, jax.random.key(1))
    first = jax.jit(build_gradient(config, task, model, transform))
    found = first(model.params, model.model_state, state, *rest)
    state = compress.update(
        transform, state, model.params, found.grads, found.observed, model.params
    )
    config = parse_config({**tiny.CONFIG, **changes})
    second = jax.jit(build_gradient(config, task, model, transform))
    return second(model.params, model.model_state, state, *rest)


def chain() -> compress.Transform:
    """Both techniques that observe something."""
    model = certain(tiny.task())
    x = jax.ShapeDtypeStruct((16, 5), jnp.float32)
    groups = compress.find_groups(
        model.forward, model.params, x, model_state=model.model_state
    )
    units = prune.structured(
        groups, budget={"parameters": 0.6}, score="activation", round_to=1, when=4
    )
    return compress.chain(units, quantize.fake_quant())


def assert_close(found: Any, wanted: Any) -> None:
    """Sums in another order: a few roundings of float32."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 2e-5, 1e-6), found, wanted
    )


@pytest.mark.parametrize("parts", [4])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(parts: int) -> None:
    whole, split = gradient(chain()), gradient(chain(), accumulate=parts)
    assert len(jax.tree.leaves(whole.observed)) > 4
    assert split.model_state["calls"] == 0
    assert_close(split, whole)


@pytest.mark.parametrize("policy", ["dots_saveable"])
def test_computing_activations_again_changes_nothing(policy: str) -> None:
    assert_close(gradient(chain(), remat=policy), gradient(chain()))


def test_parts_take_less_memory_and_activations_computed_again_are_not_kept() -> None:
    def deep(params: Any, state: Any, x: Any, **settings: Any) -> Any:
        for _ in range(4):
            x = jnp.tanh(x @ params["kernel"])
        return x[:, :3], state

    model = compress.Model(deep, {"kernel": jnp.eye(5)}, {})
    batch = {"x": jnp.ones((4096, 5)), "y": jnp.zeros((4096,), jnp.int32)}
    state, key = compress.State(jnp.int32(0), ()), jax.random.key(0)

    def lowered(**changes: Any) -> Any:
        config = parse_config({**tiny.CONFIG, "batch_size": 4096, **changes})
        run = build_gradient(config, tiny.task(), model, compress.chain())
        return jax.jit(run).lower(model.params, {}, state, batch, key)

    def temporary_bytes(lowered: Any) -> int:
        return lowered.compile().memory_analysis().temp_size_in_bytes

    whole = lowered()
    # Not an eighth: the batch is laid out again.
    assert temporary_bytes(lowered(accumulate=8)) < temporary_bytes(whole) / 2
    again = lowered(remat="nothing_saveable")
    # Forward twice: XLA on a CPU may merge the two again, the program asks for both.
    assert again.as_text().count("tanh") == 2 * whole.as_text().count("tanh")


def test_parts_must_divide_the_batch() -> None:
    with pytest.raises(ConfigError, match="3 parts do not divide batch_size 16; give"):
        parse_config({**tiny.CONFIG, "accumulate": 3})


def test_a_policy_is_one_of_those_of_jax() -> None:
    with pytest.raises(ConfigError, match="remat"):
        parse_config({**tiny.CONFIG, "remat": "all_of_it"})
    from compress.config.models import RematPolicy

    for name in RematPolicy.__args__:
        assert callable(getattr(jax.checkpoint_policies, name))
