"""Small models and their groups."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import compress
from compress import Groups

# A perceptron with two hidden layers.


def mlp(params: Any, x: Any) -> Any:
    h = jax.nn.relu(x @ params["a"] + params["a_bias"][None])
    h = jax.nn.relu(h @ params["b"] + params["b_bias"][None])
    return h @ params["c"]


def mlp_params(first: int = 12, second: int = 20, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shapes = {
        "a": (6, first),
        "a_bias": (first,),
        "b": (first, second),
        "b_bias": (second,),
        "c": (second, 3),
    }
    return {
        name: jnp.asarray(rng.standard_normal(shape), jnp.float32)
        for name, shape in shapes.items()
    }


@functools.cache
def mlp_groups(first: int = 12, second: int = 20) -> Groups:
    """`a:1` and `b:1`, the hidden units."""
    return compress.find_groups(mlp, mlp_params(first, second), jnp.ones((1, 6)))


# A residual scan: every layer may keep its own hidden units; layers may go.

LAYERS, WIDTH, HIDDEN = 4, 6, 16


def stack(params: Any, x: Any) -> Any:
    def layer(h: Any, w: Any) -> Any:
        inner = jax.nn.relu(h @ w["up"] + w["bias"][None])
        return h + inner @ w["down"], None

    h = x @ params["embed"]
    h, _ = jax.lax.scan(layer, h, params["layers"])
    return h @ params["embed"].T


def stack_params(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Any:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    layers = {
        "up": draw(LAYERS, WIDTH, HIDDEN),
        "bias": draw(LAYERS, HIDDEN),
        "down": draw(LAYERS, HIDDEN, WIDTH),
    }
    return {"embed": draw(5, WIDTH), "layers": layers}


STREAM, INNER, DEPTH = "embed:1", "layers/up:2", "layers/bias:0"


@functools.cache
def stack_groups() -> Groups:
    """The stream, the hidden units of each layer, and the layers."""
    return compress.find_groups(stack, stack_params(), jnp.ones((1, 5)))


# Convolutions: a square one (one group on both of its axes) and a grouped one.


def conv(params: Any, x: Any) -> Any:
    numbers = ("NHWC", "HWIO", "NHWC")
    run = jax.lax.conv_general_dilated
    h = jax.nn.relu(run(x, params["in"], (1, 1), "SAME", dimension_numbers=numbers))
    h = h + run(h, params["square"], (1, 1), "SAME", dimension_numbers=numbers)
    h = run(
        h,
        params["grouped"],
        (1, 1),
        "SAME",
        dimension_numbers=numbers,
        feature_group_count=2,
    )
    return h.mean(axis=(1, 2))


def conv_params() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = {"in": (3, 3, 2, 8), "square": (3, 3, 8, 8), "grouped": (1, 1, 4, 6)}
    return {
        name: jnp.asarray(rng.standard_normal(shape), jnp.float32)
        for name, shape in shapes.items()
    }


@functools.cache
def conv_groups() -> Groups:
    """One: a unit is a pair of channels, one in each group of the last convolution."""
    return compress.find_groups(conv, conv_params(), jnp.ones((1, 5, 5, 2)))
