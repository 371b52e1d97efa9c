"""Handwritten digits, 8x8 pixels, bundled with scikit-learn (1,797 images).

A convolutional teacher and fully connected students: what the teacher knows of
neighbouring pixels, the students can only learn from it.
"""

import importlib.util
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import compress

_CLASSES = 10
_PIXELS = 8


class Mlp(nnx.Module):
    """Two hidden layers."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(_PIXELS * _PIXELS, width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.head = nnx.Linear(width, _CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits `[batch, 10]` of images `[batch, 64]` in [0, 1]."""
        return self.head(nnx.relu(self.second(nnx.relu(self.first(x)))))


class Cnn(nnx.Module):
    """Three convolutions, the last two with stride 2, and two dense layers."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(1, width, (3, 3), rngs=rngs)
        self.second = nnx.Conv(width, 2 * width, (3, 3), strides=2, rngs=rngs)
        self.third = nnx.Conv(2 * width, 2 * width, (3, 3), strides=2, rngs=rngs)
        self.dense = nnx.Linear(8 * width, 8 * width, rngs=rngs)
        self.head = nnx.Linear(8 * width, _CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits `[batch, 10]` of images `[batch, 64]` in [0, 1]."""
        x = x.reshape(x.shape[0], _PIXELS, _PIXELS, 1)
        x = nnx.relu(self.third(nnx.relu(self.second(nnx.relu(self.first(x))))))
        return self.head(nnx.relu(self.dense(x.reshape(x.shape[0], -1))))


_MODELS = {"mlp": Mlp, "cnn": Cnn}


def build(key: jax.Array, kind: str = "mlp", width: int = 128) -> compress.Model:
    """A model of the digits, `mlp` or `cnn`."""
    if kind not in _MODELS:
        raise ValueError(f"digits: model.kind={kind!r} must be one of {list(_MODELS)}.")
    return compress.from_nnx(_MODELS[kind](width, rngs=nnx.Rngs(key)))


def load() -> dict[str, dict[str, np.ndarray]]:
    """The images, shuffled with a fixed seed.

    Returns:
      `train` (1,257 images), `validation` (180) and `test` (360), each with `x`
      `[n, 64]` float32 in [0, 1] and `y` `[n]` int32.
    """
    table = np.loadtxt(_csv(), delimiter=",", dtype=np.int32)
    table = np.random.default_rng(0).permutation(table)
    x, y = (table[:, :-1] / 16.0).astype(np.float32), table[:, -1]
    cuts = {"test": (0, 360), "validation": (360, 540), "train": (540, len(y))}
    return {name: {"x": x[a:b], "y": y[a:b]} for name, (a, b) in cuts.items()}


def _csv() -> pathlib.Path:
    """scikit-learn's file; importing scikit-learn would take longer than training."""
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise ImportError(
            "the digits come with scikit-learn: pip install 'jax-compress[data]'."
        )
    return pathlib.Path(package.origin).parent / "datasets/data/digits.csv.gz"


def shift(key: jax.Array, batch: Any) -> Any:
    """Moves each image by up to one pixel each way: a pen does not start on a grid."""
    images = batch["x"].reshape(-1, _PIXELS, _PIXELS)
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1)))
    starts = jax.random.randint(key, (len(images), 2), 0, 3)
    moved = jax.vmap(
        lambda image, at: jax.lax.dynamic_slice(image, at, (_PIXELS, _PIXELS))
    )(padded, starts)
    return {**batch, "x": moved.reshape(batch["x"].shape)}


def cross_entropy(logits: jax.Array, batch: Any) -> jax.Array:
    """Mean over the batch."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


def correct(logits: jax.Array, batch: Any) -> jax.Array:
    """Whether the largest logit is the label's."""
    return jnp.argmax(logits, -1) == batch["y"]


def task() -> compress.Task:
    """The task for a config: `task: experiments.tasks.digits:task`."""
    data = load()
    return compress.Task(
        build=build,
        train=data["train"],
        validation=data["validation"],
        test=data["test"],
        loss=cross_entropy,
        correct=correct,
        augment=shift,
    )
