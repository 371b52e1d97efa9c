"""The next character of Shakespeare's plays (1.1 million characters, 65 kinds).

Source of the text: Karpathy's tinyshakespeare,
https://github.com/karpathy/char-rnn/tree/master/data/tinyshakespeare.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import compress
from experiments.data import data_file

LENGTH = 64  # characters of an example
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
        characters: int,
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

        self.embed = nnx.Embed(characters, width, rngs=rngs)
        self.position = nnx.Embed(length, width, rngs=rngs)
        self.blocks = blocks(rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, characters, use_bias=False, rngs=rngs)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Logits `[batch, length, characters]` of the character after each."""

        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(x: jax.Array, block: Block) -> jax.Array:
            return block(x)

        positions = self.position(jnp.arange(ids.shape[1]))
        return self.head(self.norm(run(self.embed(ids) + positions[None], self.blocks)))


def windows(ids: np.ndarray, stride: int, length: int = LENGTH) -> dict[str, Any]:
    """Examples: `x` are `length` characters, `y` the one after each."""
    starts = np.arange(0, len(ids) - length, stride)
    both = ids[starts[:, None] + np.arange(length + 1)[None]]
    return {"x": both[:, :-1], "y": both[:, 1:]}


def cross_entropy(logits: jax.Array, batch: Any) -> jax.Array:
    """In nats, mean over examples and positions."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


def correct(logits: jax.Array, batch: Any) -> jax.Array:
    """Whether the character after the whole example is the most likely one."""
    return jnp.argmax(logits[:, -1], -1) == batch["y"][:, -1]


def task_of(text: str) -> compress.Task:
    """The task of any text; its last tenth is the test."""
    kinds = sorted(set(text))
    number = {kind: i for i, kind in enumerate(kinds)}
    ids = np.asarray([number[c] for c in text], np.int32)
    cut = len(ids) * 9 // 10

    def build(
        key: jax.Array, width: int = 80, layers: int = 3, heads: int = 4
    ) -> compress.Model:
        """A transformer; the default has a quarter of a million parameters."""
        sizes = (len(kinds), LENGTH, width, layers, heads)
        return compress.from_nnx(Transformer(*sizes, rngs=nnx.Rngs(key)))

    return compress.Task(
        build=build,
        train=windows(ids[:cut], _STRIDE),
        test=windows(ids[cut:], LENGTH),
        loss=cross_entropy,
        correct=correct,
    )


def task() -> compress.Task:
    """The task for a config: `task: experiments.tasks.shakespeare:task`.

    Raises:
      FileNotFoundError: If the data is not there.
    """
    return task_of(data_file("tinyshakespeare.txt").read_text())
