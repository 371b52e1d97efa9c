"""A BERT that gives one embedding per sentence, as all-MiniLM-L6-v2 is built.

Source: Devlin et al. 2019, https://arxiv.org/abs/1810.04805; the mean over tokens:
Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

PAD = 0  # the token that fills a sentence up; nothing looks at it


class Sizes(NamedTuple):
    """How large an encoder is.

    Attributes:
      words: Tokens that have an embedding.
      positions: Longest sentence.
      width: Of the embedding and of every layer.
      hidden: Of the two-layer network in each layer.
      heads: Of the attention.
      layers: Stacked, and run by a scan.
      epsilon: Of the norms.
    """

    words: int = 30522
    positions: int = 512
    width: int = 384
    hidden: int = 1536
    heads: int = 12
    layers: int = 6
    epsilon: float = 1e-12


# Zeros: the weights come from a file, and drawing them first would take seconds.
def _linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, kernel_init=nnx.initializers.zeros, rngs=rngs)


def _table(rows: int, width: int, rngs: nnx.Rngs) -> nnx.Embed:
    return nnx.Embed(rows, width, embedding_init=nnx.initializers.zeros, rngs=rngs)


class Layer(nnx.Module):
    """Attention and a two-layer network, each beside a shortcut and before a norm."""

    def __init__(self, sizes: Sizes, *, rngs: nnx.Rngs) -> None:
        width, hidden, epsilon = sizes.width, sizes.hidden, sizes.epsilon
        self.heads = sizes.heads
        self.query = _linear(width, width, rngs)
        self.key = _linear(width, width, rngs)
        self.value = _linear(width, width, rngs)
        self.out = _linear(width, width, rngs)
        self.attention_norm = nnx.LayerNorm(width, epsilon=epsilon, rngs=rngs)
        self.up = _linear(width, hidden, rngs)
        self.down = _linear(hidden, width, rngs)
        self.output_norm = nnx.LayerNorm(width, epsilon=epsilon, rngs=rngs)

    def __call__(self, x: jax.Array, seen: jax.Array) -> jax.Array:
        """`[batch, length, width]` to the same; `seen` is False at padding."""
        x = self.attention_norm(x + self.out(self.attend(x, seen)))
        hidden = nnx.gelu(self.up(x), approximate=False)
        return self.output_norm(x + self.down(hidden))

    def attend(self, x: jax.Array, seen: jax.Array) -> jax.Array:
        """What every token takes from those that are seen."""
        split = (*x.shape[:2], self.heads, x.shape[2] // self.heads)
        parts = (part(x).reshape(split) for part in (self.query, self.key, self.value))
        mixed = jax.nn.dot_product_attention(*parts, mask=seen[:, None, None, :])
        return mixed.reshape(x.shape)


class Encoder(nnx.Module):
    """Embeddings of length 1, whose products are the similarity of sentences."""

    def __init__(self, sizes: Sizes, *, rngs: nnx.Rngs) -> None:
        @nnx.split_rngs(splits=sizes.layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def layers(rngs: nnx.Rngs) -> Layer:
            return Layer(sizes, rngs=rngs)

        self.words = _table(sizes.words, sizes.width, rngs)
        self.positions = _table(sizes.positions, sizes.width, rngs)
        self.norm = nnx.LayerNorm(sizes.width, epsilon=sizes.epsilon, rngs=rngs)
        self.layers = layers(rngs)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """`[batch, width]` of the tokens `[batch, length]`."""
        seen = ids != PAD

        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(x: jax.Array, layer: Layer) -> jax.Array:
            return layer(x, seen)

        positions = self.positions(jnp.arange(ids.shape[1]))
        tokens = run(self.norm(self.words(ids) + positions[None]), self.layers)
        return _unit(_mean(tokens, seen))


def _mean(tokens: jax.Array, seen: jax.Array) -> jax.Array:
    """Of the tokens that are seen; a sentence has at least its two marks."""
    weight = seen.astype(tokens.dtype)[:, :, None]
    return jnp.sum(tokens * weight, axis=1) / jnp.maximum(weight.sum(axis=1), 1.0)


def _unit(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-24)
