"""What masks cost in the training of a transformer of 10 million parameters.

Goal: a step with masks at most 1.05x a plain one, a step that updates them at most 3x.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import app, flags

import compress
from compress.report import measure_latency
from experiments.bench.results import save

_QUICK = flags.DEFINE_bool("quick", False, "Two layers and two rounds, not saved.")
_WIDTH, _HEADS, _VOCABULARY, _BATCH, _LENGTH = 384, 6, 256, 8, 64


def parameters(depth: int) -> dict[str, Any]:
    """A decoder's: four matrices in each of its stacked layers."""
    keys = iter(jax.random.split(jax.random.key(0), 6))

    def normal(*shape: int) -> jax.Array:
        return jax.random.normal(next(keys), shape) * shape[-2] ** -0.5

    layers = {
        "qkv": normal(depth, _WIDTH, 3 * _WIDTH),
        "out": normal(depth, _WIDTH, _WIDTH),
        "up": normal(depth, _WIDTH, 4 * _WIDTH),
        "down": normal(depth, 4 * _WIDTH, _WIDTH),
    }
    embed, head = normal(_VOCABULARY, _WIDTH), normal(_WIDTH, _VOCABULARY)
    return {"embed": embed, "head": head, "layers": layers}


def norm(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def layer(x: jax.Array, p: dict[str, jax.Array]) -> tuple[jax.Array, None]:
    shape = (*x.shape[:2], 3, _HEADS, _WIDTH // _HEADS)
    q, k, v = jnp.moveaxis((norm(x) @ p["qkv"]).reshape(shape), 2, 0)
    mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    x = x + mixed.reshape(x.shape) @ p["out"]
    return x + jax.nn.gelu(norm(x) @ p["up"]) @ p["down"], None


def forward(p: dict[str, Any], tokens: jax.Array) -> jax.Array:
    x = jnp.take(p["embed"], tokens, axis=0)
    return norm(jax.lax.scan(layer, x, p["layers"])[0]) @ p["head"]


def trainer(depth: int, transform: Any = None) -> Callable[[], Any]:
    """A call that does one step of Adam, with the transform if there is one."""
    adam, params = optax.adam(1e-4), parameters(depth)
    tokens = jax.random.randint(jax.random.key(1), (_BATCH, _LENGTH), 0, _VOCABULARY)
    state = compress.init(forward, transform, params, tokens) if transform else None
    seen = compress.apply(forward, transform) if transform else None

    def loss(params: Any, state: Any) -> jax.Array:
        logits = seen(params, state, tokens) if seen else forward(params, tokens)
        targets = jnp.roll(tokens, -1, axis=1)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    def step(params: Any, moments: Any, state: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(params, state)
        updates, moments = adam.update(grads, moments)
        params = optax.apply_updates(params, updates)
        if transform:
            state = compress.update(transform, state, params)
        return (params, moments, state), value

    run = jax.jit(step, donate_argnums=(0, 1, 2))
    holder = [(params, adam.init(params), state)]

    def call() -> jax.Array:
        holder[0], value = run(*holder[0])
        jax.block_until_ready(holder[0])
        return value

    return call


def main(_: Any) -> None:
    """Measures and saves."""
    depth = 2 if _QUICK.value else 6
    rising = compress.ramp(0.0, 0.8, steps=(0, 10**6))
    rare, often = (
        compress.prune.magnitude(rising, every=every) for every in (10**6, 1)
    )
    uniform = compress.prune.magnitude(rising, every=1, scope="uniform")
    calls = {
        "plain": trainer(depth),
        "masks": trainer(depth, rare),
        "masks updated, global": trainer(depth, often),
        "masks updated, uniform": trainer(depth, uniform),
    }
    rounds = 2 if _QUICK.value else 15
    result = measure_latency(calls, reference="plain", repetitions=rounds, warmup=2)
    size = sum(leaf.size for leaf in jax.tree.leaves(parameters(depth)))
    title = f"Train steps of a transformer of {size / 1e6:.1f} M parameters"
    for name, entry in result["entries"].items():
        print(f"{name}: {entry['median_us'] / 1e3:.1f} ms, {entry['paired_ratio']:.2f}")
    if not _QUICK.value:
        save("mask_update", title, result)


if __name__ == "__main__":
    app.run(main)
