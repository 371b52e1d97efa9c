"""The laws hold for random programs made of the constructs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import compress
from tests.constructs.construct import conv, fill, relative_error
from tests.constructs.table import doubled_gradient

WIDTH, ROWS = 6, 4
# Each program runs once: LLVM need not optimize it.
compiled = partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})


def fused(w: Any, x: Any) -> Any:
    first, second = jnp.split(w.reshape(WIDTH, 2 * WIDTH), 2, axis=1)
    return (x @ first) * jax.nn.sigmoid(x @ second)


def convolution(w: Any, x: Any) -> Any:
    kernel = w[0, :3].reshape(3, 1, WIDTH)
    return conv(x[:, :, None], kernel, padding="SAME").mean(axis=1)


# layer(weights of shape [2, WIDTH, WIDTH], x) -> x
LAYERS: dict[str, Callable[[Any, Any], Any]] = {
    "plain": lambda w, x: x @ w[0],
    "transposed": lambda w, x: x @ w[1].T,
    "scaled": lambda w, x: x @ (0.5 * w[0] * 3),
    "negated and halved": lambda w, x: x @ (-w[0] / 2),
    "left": lambda w, x: jnp.einsum("io,bi->bo", w[1], x),
    "fused": fused,
    "twice": lambda w, x: jax.nn.relu(x @ w[0]) @ w[0],
    "convolution": convolution,
    "ragged": lambda w, x: jax.lax.ragged_dot(x, w, jnp.asarray([1, 3], jnp.int32)),
    "computed": lambda w, x: x @ (w[0] + w[1]) + x @ w[1],
    "custom_vjp": lambda w, x: doubled_gradient(x, w[0]) + x @ w[1],
}
# wrap(layer) -> layer
WRAPS: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda f: f,
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "scan": lambda f: (
        lambda w, x: jax.lax.scan(
            lambda h, _: (jnp.tanh(f(w, h)), None), x, None, length=2
        )[0]
    ),
    "scan over weights": lambda f: (
        lambda w, x: jax.lax.scan(
            lambda h, w: (jnp.tanh(f(w, h)), None), x, jnp.stack([w, w])
        )[0]
    ),
    "cond": lambda f: lambda w, x: jax.lax.cond(x[0, 0] > 0, f, lambda _, x: x, w, x),
    "vmap": lambda f: lambda w, x: jax.vmap(f, (None, 0))(w, x[:, None])[:, 0],
    "scanned checkpoint": lambda f: WRAPS["scan"](jax.checkpoint(f)),
}
# JAX has no rule for vmap of a ragged_dot.
APART = {("ragged", "vmap")}
PARTS = [(a, b) for a in LAYERS for b in WRAPS if (a, b) not in APART]


def build(parts: Any) -> Callable[[Any, Any], Any]:
    def forward(params: Any, x: Any) -> Any:
        for (layer, wrap), w in zip(parts, params):
            x = x + jnp.tanh(WRAPS[wrap](LAYERS[layer])(w, x))
        return x

    return forward


@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=4), st.integers(0, 2**16))
def test_the_laws_hold_for_a_random_program(parts: Any, seed: int) -> None:
    forward = build(parts)
    shapes = [(2, WIDTH, WIDTH) for _ in parts]
    params, x = fill(shapes, jnp.float32, seed), fill((ROWS, WIDTH), jnp.float32, seed)

    nothing = compress.chain()
    state = compress.init(forward, nothing, params, x)
    expected = compiled(forward)(params, x)
    ours = compiled(compress.apply(forward, nothing))(params, state, x)
    np.testing.assert_array_equal(ours, expected)

    if not compress.find_sites(forward, params, x).weighted:
        return
    transform = compress.quantize.fake_quant(activations="int8_dynamic")
    state = compress.init(forward, transform, params, x)
    applied = compress.apply(forward, transform)
    quantized = compiled(applied)(params, state, x)
    # 1 % per product, of up to 4 * 2 * 2 that follow one another, on a residual path.
    assert relative_error(quantized, expected) < 0.06
    if any(layer == "ragged" for layer, _ in parts):
        return  # JAX has no rule for vmap of a ragged_dot
    several = jnp.stack([x, 0.5 * x])
    mapped = compiled(jax.vmap(applied, in_axes=(None, None, 0)))(
        params, state, several
    )
    # A rounding that falls the other way moves an activation by one of 127 steps.
    assert relative_error(mapped[0], quantized) < 2 / 127
