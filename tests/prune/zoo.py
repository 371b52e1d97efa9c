"""Models whose groups are known, as functions with small random parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import compress
from experiments.tasks import cifar

HEADS, GROUPS, WIDTH, VOCABULARY = 2, 2, 6, 11  # key heads, queries for each, head
DIM, HIDDEN, LAYERS = 8, 10, 2


class Case(NamedTuple):
    """A model whose groups are known.

    Attributes:
      forward: Of parameters and inputs.
      params: Random, so that no unit is like another.
      inputs: A batch.
      sizes: Of the free groups, sorted.
      centred: Whether a norm subtracts a mean, which moves with every unit it sums,
        also with one that is zero.
    """

    forward: Callable[..., Any]
    params: Any
    inputs: tuple[Any, ...]
    sizes: list[int]
    centred: bool = False


def random_like(shapes: Any, seed: int = 0) -> Any:
    """Normal parameters; vectors around one, as scales and variances are."""
    rng = np.random.default_rng(seed)

    def draw(x: Any) -> jax.Array:
        if x.ndim <= 1:
            return jnp.asarray(rng.uniform(0.5, 1.5, x.shape), jnp.float32)
        fan_in = max(1, int(np.prod(x.shape[:-1])))
        scale = 1.5 / fan_in**0.5
        return jnp.asarray(rng.normal(0, scale, x.shape), jnp.float32)

    return jax.tree.map(draw, shapes)


def _shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def rms_norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Root-mean-square normalisation."""
    mean = jnp.mean(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(mean + 1e-6) * scale.reshape((1,) * (x.ndim - 1) + (-1,))


def _rotate(x: jax.Array) -> jax.Array:
    """Rotary positions on `[batch, time, heads, width]`."""
    half = x.shape[-1] // 2
    frequencies = 10.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None] * frequencies[None]
    cos, sin = jnp.cos(angles)[None, :, None], jnp.sin(angles)[None, :, None]
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def _attention(layer: Any, x: jax.Array) -> jax.Array:
    """Fused queries, keys and values; grouped queries; rotary positions."""
    batch, time, _ = x.shape
    queries = HEADS * GROUPS * WIDTH
    sizes = (queries, HEADS * WIDTH, HEADS * WIDTH)
    q, k, v = jax.lax.split(x @ layer["qkv"], sizes, axis=2)
    q = _rotate(q.reshape(batch, time, HEADS * GROUPS, WIDTH))
    k = _rotate(k.reshape(batch, time, HEADS, WIDTH))
    v = v.reshape(batch, time, HEADS, WIDTH)
    q = q.reshape(batch, time, HEADS, GROUPS, WIDTH)
    scores = jnp.einsum("btkgd,bskd->bkgts", q, k) / WIDTH**0.5
    causal = np.tril(np.ones((time, time), bool))
    scores = jnp.where(causal[None, None, None], scores, -1e9)
    weights = jax.nn.softmax(scores, axis=-1)
    mixed = jnp.einsum("bkgts,bskd->btkgd", weights, v)
    return mixed.reshape(batch, time, queries) @ layer["out"]


def _block(layer: Any, x: jax.Array) -> jax.Array:
    x = x + _attention(layer, rms_norm(x, layer["norm1"]))
    hidden = rms_norm(x, layer["norm2"])
    gated = jax.nn.silu(hidden @ layer["gate"]) * (hidden @ layer["up"])
    return x + gated @ layer["down"]


def _layer_shapes(*stack: int) -> dict[str, Any]:
    queries = HEADS * GROUPS * WIDTH
    fused = queries + 2 * HEADS * WIDTH
    return {
        "norm1": _shape(*stack, DIM),
        "qkv": _shape(*stack, DIM, fused),
        "out": _shape(*stack, queries, DIM),
        "norm2": _shape(*stack, DIM),
        "gate": _shape(*stack, DIM, HIDDEN),
        "up": _shape(*stack, DIM, HIDDEN),
        "down": _shape(*stack, HIDDEN, DIM),
    }


def decoder(kind: str) -> Case:
    """A decoder with a tied embedding: `unrolled`, `scanned` or `rematerialised`."""
    shapes: dict[str, Any] = {"embedding": _shape(VOCABULARY, DIM), "norm": _shape(DIM)}
    if kind == "unrolled":
        for i in range(LAYERS):
            shapes[f"block{i}"] = _layer_shapes()
    else:
        shapes["blocks"] = _layer_shapes(LAYERS)
    block = jax.checkpoint(_block) if kind == "rematerialised" else _block

    def forward(params: Any, tokens: jax.Array) -> jax.Array:
        x = params["embedding"][tokens]
        if kind == "unrolled":
            for i in range(LAYERS):
                x = block(params[f"block{i}"], x)
        else:
            step = lambda x, layer: (block(layer, x), None)  # noqa: E731
            x, _ = jax.lax.scan(step, x, params["blocks"])
        return rms_norm(x, params["norm"]) @ params["embedding"].T

    params = random_like(shapes)
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, (2, 5))
    # of each layer: key heads, queries for each, rotated pairs, value width, hidden
    own = [HEADS, GROUPS, WIDTH // 2, WIDTH, HIDDEN]
    each = own * LAYERS if kind == "unrolled" else [*own, LAYERS]
    return Case(forward, params, (jnp.asarray(tokens),), sorted([DIM, *each]))


class Convolutions(linen.Module):
    """Depthwise, grouped, concatenated, group-normalised, excited, flattened."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.relu(linen.Conv(8, (3, 3), name="stem")(x))
        x = linen.Conv(8, (3, 3), feature_group_count=8, name="depthwise")(x)
        y = linen.relu(linen.Conv(16, (1, 1), name="point")(x))
        y = linen.GroupNorm(num_groups=4, name="norm")(y)
        z = linen.Conv(24, (3, 3), feature_group_count=4, name="grouped")(y)
        gate = linen.relu(linen.Dense(8, name="squeeze")(z.mean(axis=(1, 2))))
        gate = linen.sigmoid(linen.Dense(24, name="excite")(gate))
        z = z * gate[:, None, None, :]
        joined = jnp.concatenate([linen.relu(x), linen.relu(z)], axis=-1)
        joined = linen.avg_pool(joined, (2, 2), strides=(2, 2))
        flat = joined.reshape(joined.shape[0], -1)
        hidden = linen.relu(linen.Dense(20, name="fc")(flat))
        return linen.Dense(5, name="head")(hidden)


def convolutions() -> Case:
    """The convolutional network above."""
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 6, 6, 3)), jnp.float32)
    module = Convolutions()
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    # stem with depthwise and the concatenation; GroupNorm's groups and channels within
    # one, which are also the groups and inputs of the grouped convolution; its outputs
    # in each group; squeeze; fc
    return Case(module.apply, random_like(shapes), (x,), [4, 4, 6, 8, 8, 20], True)


class LinenBlock(linen.Module):
    """A pre-norm transformer block."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = linen.LayerNorm()(x)
        x = x + linen.MultiHeadDotProductAttention(num_heads=2, qkv_features=8)(y, y)
        y = linen.Dense(12)(linen.LayerNorm()(x))
        return x + linen.Dense(6)(linen.gelu(y))


class LinenTransformer(linen.Module):
    """Two blocks, then the mean over time."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.Dense(6)(x)
        for _ in range(2):
            x = LinenBlock()(x)
        return linen.Dense(3)(linen.LayerNorm()(x).mean(axis=1))


def linen_transformer() -> Case:
    """Heads, query-key and value widths, hidden units of each block; the stream."""
    x = jnp.asarray(np.random.default_rng(3).normal(size=(2, 5, 4)), jnp.float32)
    module = LinenTransformer()
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    sizes = sorted([6, *[2, 4, 4, 12] * 2])
    return Case(module.apply, random_like(shapes), (x,), sizes, True)


class NnxBlock(nnx.Module):
    """A pre-norm transformer block."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm1, self.norm2 = nnx.LayerNorm(6, rngs=rngs), nnx.RMSNorm(6, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 6, 8, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(6, 12, rngs=rngs), nnx.Linear(12, 6, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class NnxTransformer(nnx.Module):
    """Two blocks on embedded tokens with learned positions."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(VOCABULARY, 6, rngs=rngs)
        self.positions = nnx.Param(jnp.zeros((5, 6)))
        self.blocks = nnx.List([NnxBlock(rngs) for _ in range(2)])
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens) + self.positions[None]
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def nnx_transformer() -> Case:
    """As the Linen one, with an embedding and positions."""
    model = compress.from_nnx(NnxTransformer(nnx.Rngs(0)))
    tokens = np.random.default_rng(4).integers(0, VOCABULARY, (2, 5))
    forward = lambda p, x: model.forward(p, model.model_state, x)[0]  # noqa: E731
    sizes = sorted([6, *[2, 4, 4, 12] * 2])
    params = random_like(model.params)
    return Case(forward, params, (jnp.asarray(tokens),), sizes, True)


def lstm() -> Case:
    """An LSTM over time: one group, of its four gates and both states."""
    shapes = {"wx": _shape(3, 32), "wh": _shape(8, 32), "b": _shape(32)}
    shapes["head"] = _shape(8, 4)

    def forward(params: Any, x: jax.Array) -> jax.Array:
        def step(carry: Any, x: jax.Array) -> Any:
            h, c = carry
            gates = x @ params["wx"] + h @ params["wh"] + params["b"][None]
            i, f, g, o = jnp.split(gates, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zeros = jnp.zeros((x.shape[0], 8))
        _, hidden = jax.lax.scan(step, (zeros, zeros), x.swapaxes(0, 1))
        return hidden.swapaxes(0, 1) @ params["head"]

    x = jnp.asarray(np.random.default_rng(5).normal(size=(2, 6, 3)), jnp.float32)
    return Case(forward, random_like(shapes), (x,), [8])


def resnet8() -> Case:
    """MLPerf Tiny's network, narrow: three residual streams, three inner widths."""
    model = cifar.build(jax.random.key(0), "4-6-8")
    forward = lambda p, x: model.forward(p, model.model_state, x)[0]  # noqa: E731
    x = np.random.default_rng(6).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    params = random_like(model.params)
    return Case(forward, params, (jnp.asarray(x),), [4, 4, 6, 6, 8, 8])


CASES: dict[str, Callable[[], Case]] = {
    "resnet8": resnet8,
    "decoder unrolled": lambda: decoder("unrolled"),
    "decoder scanned": lambda: decoder("scanned"),
    "decoder rematerialised": lambda: decoder("rematerialised"),
    "convolutions": convolutions,
    "linen transformer": linen_transformer,
    "nnx transformer": nnx_transformer,
    "lstm": lstm,
}
