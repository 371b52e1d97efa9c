"""Small models with their groups written by hand, and their costs counted by hand."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from compress.sites.groups import Group, Groups, Member


def each(size: int) -> np.ndarray:
    """Unit i at position i."""
    return np.arange(size)[:, None]


def group(
    name: str, size: int, *members: Member, layers: int | None = None, **other: Any
) -> Group:
    settings = {"kind": "units", "frozen": None, "signature": name, **other}
    return Group(name=name, size=size, layers=layers, members=members, **settings)


def writes(path: str, axis: int, size: int, layer: int | None = None) -> Member:
    return Member(path, axis, each(size), False, True, layer)


def reads(path: str, axis: int, size: int, layer: int | None = None) -> Member:
    return Member(path, axis, each(size), True, False, layer)


def vector(path: str, size: int, axis: int = 0, layer: int | None = None) -> Member:
    return Member(path, axis, each(size), False, False, layer)


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


def mlp_groups(first: int = 12, second: int = 20) -> Groups:
    hidden = (
        group(
            "a:1",
            first,
            writes("a", 1, first),
            vector("a_bias", first),
            reads("b", 0, first),
            signature="hidden",
        ),
        group(
            "b:1",
            second,
            writes("b", 1, second),
            vector("b_bias", second),
            reads("c", 0, second),
            signature="hidden",
        ),
        group("a:0", 6, reads("a", 0, 6), frozen="it is the model's input"),
    )

    def parameters(sizes: Mapping[str, int]) -> int:
        a, b = sizes.get("a:1", first), sizes.get("b:1", second)
        return 6 * a + a + a * b + b + 3 * b

    def macs(sizes: Mapping[str, int]) -> int:
        a, b = sizes.get("a:1", first), sizes.get("b:1", second)
        return 6 * a + a * b + 3 * b

    return Groups(hidden, parameters, macs)


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


def stack_groups() -> Groups:
    up, bias, down = "layers/up", "layers/bias", "layers/down"
    found = (
        group(
            "hidden",
            HIDDEN,
            writes(up, 2, HIDDEN, 0),
            vector(bias, HIDDEN, 1, 0),
            reads(down, 1, HIDDEN, 0),
            layers=LAYERS,
        ),
        # The embedding is tied: one parameter that writes and that reads.
        group(
            "stream",
            WIDTH,
            writes("embed", 1, WIDTH),
            reads("embed", 1, WIDTH),
            reads(up, 1, WIDTH),
            writes(down, 2, WIDTH),
        ),
        group(
            "depth",
            LAYERS,
            *(vector(path, LAYERS) for path in (up, bias, down)),
            kind="depth",
        ),
    )

    def parameters(sizes: Mapping[str, int]) -> int:
        h, d = sizes.get("hidden", HIDDEN), sizes.get("stream", WIDTH)
        return 5 * d + sizes.get("depth", LAYERS) * (2 * d * h + h)

    def macs(sizes: Mapping[str, int]) -> int:
        h, d = sizes.get("hidden", HIDDEN), sizes.get("stream", WIDTH)
        return 10 * d + sizes.get("depth", LAYERS) * 2 * d * h

    return Groups(found, parameters, macs)


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


def conv_groups() -> Groups:
    # A unit is a pair of channels, one in each group of the last convolution.
    pairs = np.stack([np.arange(4), np.arange(4) + 4], axis=1)
    found = (
        group(
            "in:3",
            4,
            Member("in", 3, pairs, False, True, None),
            Member("square", 2, pairs, True, False, None),
            Member("square", 3, pairs, False, True, None),
            reads("grouped", 2, 4),
            Member("model_state/mean", 0, pairs, False, False, None),
        ),
    )

    def parameters(sizes: Mapping[str, int]) -> int:
        n = sizes.get("in:3", 4)
        return 36 * n + 36 * n * n + 6 * n

    def macs(sizes: Mapping[str, int]) -> int:
        return 25 * parameters(sizes)

    return Groups(found, parameters, macs)
