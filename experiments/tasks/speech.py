"""Spoken digits from the raw waveform: a depthwise-separable student for a phone.

The front end is part of the model, so an exported artifact takes samples as they come
from a microphone: 16 bits, 8 kHz, one second.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import compress
from experiments.tasks import spoken_digits
from experiments.tasks.digits import correct, cross_entropy
from experiments.tasks.log_mel import log_mel
from experiments.tasks.spoken_digits import RATE, SAMPLES, SPEAKERS, WORDS

# Log-mels are about -11.5 to 0: these make them about -1 to 1.
_CENTRE, _SCALE = -6.0, 5.0
# Recordings of each digit and speaker that are kept for testing and for the curves.
TEST, _VALIDATION = range(5), range(5, 8)


class Normed(nnx.Module):
    """A convolution, batch normalisation and ReLU."""

    def __init__(
        self,
        inside: int,
        outside: int,
        size: tuple[int, int],
        stride: int = 1,
        groups: int = 1,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv = nnx.Conv(
            inside,
            outside,
            size,
            strides=stride,
            feature_group_count=groups,
            use_bias=False,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(outside, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images `[batch, height, width, channel]`."""
        return nnx.relu(self.norm(self.conv(x)))


class Separable(nnx.Module):
    """A 3x3 convolution of each channel alone, then one across channels."""

    def __init__(self, width: int, stride: int, *, rngs: nnx.Rngs) -> None:
        self.depthwise = Normed(width, width, (3, 3), stride, width, rngs=rngs)
        self.pointwise = Normed(width, width, (1, 1), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images of the same width."""
        return self.pointwise(self.depthwise(x))


class DsCnn(nnx.Module):
    """A convolution and `depth` separable ones.

    Source: Zhang et al. 2017, Hello Edge. https://arxiv.org/abs/1711.07128
    """

    def __init__(self, width: int, depth: int, *, rngs: nnx.Rngs) -> None:
        self.stem = Normed(1, width, (10, 4), 2, rngs=rngs)
        strides = [2, *[1] * (depth - 1)]
        self.blocks = nnx.List([Separable(width, s, rngs=rngs) for s in strides])
        self.head = nnx.Linear(width, len(WORDS), rngs=rngs)

    def __call__(self, samples: jax.Array) -> jax.Array:
        """Logits `[batch, 10]` of waveforms `[batch, 8000]`, int16."""
        x = self.stem(_image(samples))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


class Cnn(nnx.Module):
    """Four ordinary 3x3 convolutions, each but the first with stride 2."""

    def __init__(self, width: int, depth: int, *, rngs: nnx.Rngs) -> None:
        sizes = [1, *(min(2**i, 4) * width for i in range(depth))]
        self.blocks = nnx.List(
            [
                Normed(a, b, (3, 3), 1 if a == 1 else 2, rngs=rngs)
                for a, b in itertools.pairwise(sizes)
            ]
        )
        self.head = nnx.Linear(sizes[-1], len(WORDS), rngs=rngs)

    def __call__(self, samples: jax.Array) -> jax.Array:
        """Logits `[batch, 10]` of waveforms `[batch, 8000]`, int16."""
        x = _image(samples)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


_MODELS = {"ds_cnn": DsCnn, "cnn": Cnn}


def _image(samples: jax.Array) -> jax.Array:
    """The log-mel spectrum as an image with one channel, `[batch, 49, 20, 1]`."""
    return ((log_mel(samples, RATE) - _CENTRE) / _SCALE)[..., None]


def build(
    key: jax.Array, kind: str = "ds_cnn", width: int = 64, depth: int = 4
) -> compress.Model:
    """A model of spoken digits, `ds_cnn` or `cnn`."""
    if kind not in _MODELS:
        raise ValueError(f"speech: model.kind={kind!r} must be one of {list(_MODELS)}.")
    return compress.from_nnx(_MODELS[kind](width, depth, rngs=nnx.Rngs(key)))


def augment(key: jax.Array, batch: Any) -> Any:
    """Faster or slower (and so higher or lower), earlier or later, with noise."""
    speed_key, shift_key, level_key, noise_key = jax.random.split(key, 4)
    x = batch["x"].astype(jnp.float32)
    one = (len(x), 1)
    speed = jax.random.uniform(speed_key, one, minval=0.85, maxval=1.15)
    shift = jax.random.uniform(shift_key, one, minval=-0.1, maxval=0.1) * SAMPLES
    moment = jnp.arange(SAMPLES, dtype=jnp.float32)[None] - SAMPLES / 2
    x = _at(x, moment * speed + shift + SAMPLES / 2)
    # 15 to 50 dB under the loudest sample.
    decibel = jax.random.uniform(level_key, one, minval=-50.0, maxval=-15.0)
    level = jnp.abs(x).max(1, keepdims=True) * 10.0 ** (decibel / 20)
    x = x + level * jax.random.normal(noise_key, x.shape)
    return {**batch, "x": jnp.clip(jnp.round(x), -32768, 32767).astype(jnp.int16)}


def _at(x: jax.Array, places: jax.Array) -> jax.Array:
    """Samples between samples, by linear interpolation; 0 outside."""
    first = jnp.floor(places)
    weight = places - first
    index = first.astype(jnp.int32)

    def taken(index: jax.Array) -> jax.Array:
        inside = (index >= 0) & (index < x.shape[1])
        found = jnp.take_along_axis(x, jnp.clip(index, 0, x.shape[1] - 1), axis=1)
        return jnp.where(inside, found, 0.0)

    return (1 - weight) * taken(index) + weight * taken(index + 1)


def load(split: str, hold_out: str | None) -> dict[str, dict[str, np.ndarray]]:
    """Recordings to train on, for the curves, and to test on.

    Args:
      split: `official` tests on the first five recordings of each digit by each
        speaker; `speaker` on all recordings of speakers that nothing is trained on.
      hold_out: With `speaker`, whose: one name, or several with commas.
    """
    held_out = _held_out(split, hold_out)  # before anything is read
    data = spoken_digits.load()
    kept = data["index"]
    test = np.isin(data["speaker"], held_out) if held_out else np.isin(kept, TEST)
    validation = ~test & np.isin(kept, _VALIDATION)
    parts = {"test": test, "validation": validation, "train": ~(test | validation)}
    return {
        name: {"x": data["x"][rows], "y": data["y"][rows]}
        for name, rows in parts.items()
    }


def _held_out(split: str, names: str | None) -> list[int]:
    """Which of the speakers nothing is trained on; none with the official split."""
    if split not in ("official", "speaker"):
        raise ValueError(
            f"speech: data.split={split!r} must be 'official' or 'speaker'."
        )
    if split == "official":
        if names is not None:
            raise ValueError(
                f"speech: data.hold_out={names!r} is for split: speaker. Remove it, "
                "or set split: speaker."
            )
        return []
    found = (names or "").split(",")
    if not set(found) < set(SPEAKERS):
        raise ValueError(
            f"speech: data.hold_out={names!r} must be one of {', '.join(SPEAKERS)}, or "
            "some of them with commas between, but not all."
        )
    return [SPEAKERS.index(name) for name in found]


def task(split: str = "official", hold_out: str | None = None) -> compress.Task:
    """The task for a config: `task: experiments.tasks.speech:task`."""
    data = load(split, hold_out)
    return compress.Task(
        build=build,
        train=data["train"],
        validation=data["validation"],
        test=data["test"],
        loss=cross_entropy,
        correct=correct,
        augment=augment,
        classes=WORDS,
        sample_rate=RATE,
    )
