"""Random networks of the primitives that structured pruning knows."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_BATCH, _TIME = 2, 3

# One step of a network: what to do, and three numbers that decide how.
Step = tuple[str, int, int, int]


class Network:
    """A network that is built as it runs: a function of its parameters and an input.

    The first run makes the parameters; later ones use them.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps
        self.params: dict[str, Any] = {}
        self.making = True
        rng = np.random.default_rng(0)
        self.input = jnp.asarray(rng.normal(size=(_BATCH, _TIME, 4)), jnp.float32)
        self.rng = rng
        self.forward(self.params, self.input)
        self.making = False

    def parameter(self, params: Any, name: str, *shape: int) -> jax.Array:
        """A parameter of this shape, made in the first run."""
        if self.making:
            scale = 1.0 if len(shape) == 1 else shape[0] ** -0.5
            values = self.rng.normal(0.3, scale, shape)
            self.params[name] = jnp.asarray(values, jnp.float32)
        return params[name] if not self.making else self.params[name]

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """The network on `[batch, time, 4]`."""
        values = [self.dense(params, "first", x, 8)]
        for number, (kind, a, b, c) in enumerate(self.steps):
            name, x = f"{number}", values[a % len(values)]
            result = getattr(self, kind)(params, name, x, b, values[c % len(values)])
            values += result if isinstance(result, list) else [result]
        last = values[-1]
        flat = last.reshape(_BATCH, _TIME, -1)
        return self.dense(params, "last", flat, 3)

    def dense(
        self, params: Any, name: str, x: jax.Array, size: int, other: Any = None
    ) -> jax.Array:
        """A product with a weight, over the last axis."""
        outputs = [8, 6, 4, 12][size % 4] if other is not None else size
        weight = self.parameter(params, f"w{name}", x.shape[-1], outputs)
        return x @ weight

    def scale(self, params: Any, name: str, x: Any, b: int, other: Any) -> Any:
        """A vector per feature, or a shift."""
        vector = self.parameter(params, f"v{name}", x.shape[-1])
        vector = vector.reshape((1,) * (x.ndim - 1) + (-1,))
        return x * vector if b % 2 else x + vector

    def activate(self, params: Any, name: str, x: Any, b: int, other: Any) -> Any:
        """Some zero at zero, some not."""
        functions: list[Callable[[Any], Any]] = [
            jax.nn.relu,
            jnp.tanh,
            jax.nn.sigmoid,
            jax.nn.gelu,
            jnp.cos,
            lambda x: jnp.minimum(x, 1.0),
        ]
        return functions[b % len(functions)](x)

    def combine(self, params: Any, name: str, x: Any, b: int, other: Any) -> Any:
        """Two values side by side, where they fit."""
        if other.shape != x.shape:
            return x
        operations = [jnp.add, jnp.multiply, jnp.maximum, jnp.subtract]
        return operations[b % len(operations)](x, other)

    def join(self, params: Any, name: str, x: Any, b: int, other: Any) -> Any:
        """Two values end to end."""
        fits = other.ndim == x.ndim and other.shape[:-1] == x.shape[:-1]
        if not fits or x.shape[-1] + other.shape[-1] > 24:
            return x
        return jnp.concatenate([x, other], axis=-1)

    def divide(self, params: Any, name: str, x: Any, b: int, other: Any) -> Any:
        """Equal parts."""
        parts = [2, 3][b % 2]
        if x.shape[-1] % parts or x.shape[-1] < 2 * parts:
            return x
        return list(jnp.split(x, parts, axis=-1))

    def slice(self, params: Any, name: str, x: Any, b: int, other: Any) -> Any:
        """A segment, or every other one."""
        if x.shape[-1] < 4:
            return x
        if b % 4 == 3:
            return x[..., ::2]
        start = b % 3
        return x[..., start : start + x.shape[-1] // 2]

    def heads(self, params: Any, name: str, x: Any, b: int, other: Any) -> Any:
        """Splits the features, or merges them again."""
        if x.ndim == 4:
            return x.reshape(*x.shape[:2], -1)
        count = [2, 3][b % 2]
        if x.ndim != 3 or x.shape[-1] % count:
            return x
        return x.reshape(*x.shape[:2], count, -1)

    def swap(self, params: Any, name: str, x: Any, b: int, other: Any) -> Any:
        """The last two axes the other way round, where both are features."""
        return x.swapaxes(-1, -2) if x.ndim == 4 else x

    def normalize(self, params: Any, name: str, x: Any, b: int, other: Any) -> Any:
        """By the root mean square, the mean and variance, or a softmax."""
        if b % 3 == 0:
            square = jnp.mean(x * x, axis=-1, keepdims=True)
            return x * jax.lax.rsqrt(square + 1e-3)
        if b % 3 == 1:
            return jax.nn.standardize(x, axis=-1, epsilon=1e-3)
        return jax.nn.softmax(x, axis=-1)

    def attend(self, params: Any, name: str, x: Any, b: int, other: Any) -> Any:
        """Products of data with data, over features or over time."""
        if x.ndim != 3 or other.shape != x.shape:
            return x
        scores = jnp.einsum("btd,bsd->bts", x, other)
        return jnp.einsum("bts,bsd->btd", jnp.tanh(scores), other)

    def scan(self, params: Any, name: str, x: Any, b: int, other: Any) -> Any:
        """Two residual layers, or a cumulative sum over time."""
        if x.ndim != 3:
            return x
        size = x.shape[-1]
        if b % 2:
            total, sums = jax.lax.scan(
                lambda s, v: (s + v, s), jnp.zeros_like(x[:, 0]), x.swapaxes(0, 1)
            )
            return sums.swapaxes(0, 1) + total[:, None]
        up = self.parameter(params, f"u{name}", 2, size, 5)
        down = self.parameter(params, f"d{name}", 2, 5, size)
        layer = lambda h, w: (h + jnp.tanh(h @ w[0]) @ w[1], None)  # noqa: E731
        return jax.lax.scan(layer, x, (up, down))[0]

    def reverse(self, params: Any, name: str, x: Any, b: int, other: Any) -> Any:
        """Orders that cannot lose units."""
        return x[..., ::-1] if b % 2 else jnp.cumsum(x, axis=-1)


KINDS = (
    *("dense", "dense", "scale", "activate", "activate", "combine", "combine"),
    *("join", "divide", "slice", "heads", "heads", "swap", "normalize", "attend"),
    *("scan", "reverse"),
)
