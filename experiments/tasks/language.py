"""Language models: the next symbol (character, byte) of a text.

Judged by the loss in nats per symbol; its exponential is the perplexity.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import compress

LENGTH = 64  # symbols of an example
_STRIDE = 16  # between the starts of training examples


class Block(nnx.Module):
    """Attention and a two-layer network, each after a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        self.qkv = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, length, width]` to the same."""
        x = x + self.out(self.attend(self.attention_norm(x)))
        return x + self.down(nnx.gelu(self.up(self.mlp_norm(x))))

    def attend(self, x: jax.Array) -> jax.Array:
        """Causal attention, each head on its part of the width."""
        batch, length, width = x.shape
        split = (batch, length, self.heads, width // self.heads)
        query, key, value = (
            part.reshape(split) for part in jnp.split(self.qkv(x), 3, axis=-1)
        )
        mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        return mixed.reshape(x.shape)


class Transformer(nnx.Module):
    """A decoder whose layers are stacked, and run by a scan."""

    def __init__(
        self,
        symbols: int,
        length: int,
        width: int,
        layers: int,
        heads: int,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        @nnx.split_rngs(splits=layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def blocks(rngs: nnx.Rngs) -> Block:
            return Block(width, heads, rngs=rngs)

        self.embed = nnx.Embed(symbols, width, rngs=rngs)
        self.position = nnx.Embed(length, width, rngs=rngs)
        self.blocks = blocks(rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, symbols, use_bias=False, rngs=rngs)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Logits `[batch, length, symbols]` of the symbol after each."""

        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(x: jax.Array, block: Block) -> jax.Array:
            return block(x)

        positions = self.position(jnp.arange(ids.shape[1]))
        return self.head(self.norm(run(self.embed(ids) + positions[None], self.blocks)))


def windows(
    ids: np.ndarray, stride: int, length: int = LENGTH
) -> dict[str, np.ndarray]:
    """Examples: `x` are `length` symbols, `y` the one after each."""
    starts = np.arange(0, len(ids) - length, stride)
    both = ids[starts[:, None] + np.arange(length + 1)[None]]
    return {"x": both[:, :-1], "y": both[:, 1:]}


def some(examples: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """At most `count` of the examples, spread evenly."""
    size = len(examples["x"])
    chosen = np.unique(np.linspace(0, size - 1, min(count, size)).round().astype(int))
    return {name: x[chosen] for name, x in examples.items()}


def losses(logits: jax.Array, batch: Any) -> jax.Array:
    """In nats, for each example the mean over its positions."""
    found = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
    return found.mean(axis=1)


def cross_entropy(logits: jax.Array, batch: Any) -> jax.Array:
    """In nats, mean over examples and positions."""
    return losses(logits, batch).mean()


def hits(logits: jax.Array, batch: Any) -> jax.Array:
    """For each example, the share of positions whose next symbol is the likeliest."""
    return (jnp.argmax(logits, -1) == batch["y"]).mean(axis=1)


def language_task(
    symbols: int,
    train: np.ndarray,
    validation: np.ndarray,
    test: np.ndarray,
    tests: int,
) -> compress.Task:
    """A task on three texts that follow no one another.

    Two symbols may be as likely as each other at one of thousands of positions, so an
    artifact needs not choose the same one everywhere: its loss is what is compared.

    Args:
      symbols: How many kinds there are.
      train: Symbols by number.
      validation: Likewise.
      test: Likewise.
      tests: Examples of the test text that are looked at, spread evenly.
    """

    def build(
        key: jax.Array, width: int = 80, layers: int = 3, heads: int = 4
    ) -> compress.Model:
        """A transformer; the default has a quarter of a million parameters."""
        sizes = (symbols, LENGTH, width, layers, heads)
        return compress.from_nnx(Transformer(*sizes, rngs=nnx.Rngs(key)))

    return compress.Task(
        build=build,
        train=windows(train, _STRIDE),
        validation=windows(validation, LENGTH),
        test=some(windows(test, LENGTH), tests),
        loss=cross_entropy,
        metric=compress.Metric(
            losses, "loss", unit="nats", scale=1.0, higher_is_better=False
        ),
        extra_metrics={"next symbol": hits},
        classifies=False,
    )
