"""CIFAR-10-JPEG with MLPerf Tiny's ResNet-8, pretrained or from scratch.

BatchNorm is kept: without it, a network that lost weights recovers slowly, and with its
factors folded into the kernels, weights of different layers cannot be compared.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import compress
from experiments.tasks import cifar10_jpeg, cifar_pretrained
from experiments.tasks.cifar_pretrained import CENTRE, EPSILON, NORMED, SCALE, Arrays
from experiments.tasks.digits import correct, cross_entropy

_CLASSES = 10
_VALIDATION = 2000
_MOMENTUM = 0.9
_BLOCKS = (("block1", 1), ("block2", 2), ("block3", 2))


def logits(
    params: Arrays,
    model_state: Arrays,
    x: jax.Array,
    train: bool = False,
    measure: bool = False,
) -> tuple[jax.Array, Arrays]:
    """Logits `[batch, 10]` of images `[batch, 32, 32, 3]`, uint8; new statistics.

    To `measure` is to infer, and to return the statistics of this batch.
    """
    new = dict(model_state)

    def normed(name: str, x: jax.Array, stride: int = 1, pad: str = "SAME") -> Any:
        y = _convolution(params[name]["kernel"], x, stride, pad)
        if measure:
            new[name] = _statistics(y)
        if train:
            new[name] = _moved(model_state[name], y)
            mean, variance = y.mean((0, 1, 2)), y.var((0, 1, 2))
        else:
            mean, variance = model_state[name]["mean"], model_state[name]["variance"]
        factor = params[name]["scale"] * jax.lax.rsqrt(variance + EPSILON)
        return (y - _wide(mean)) * _wide(factor) + _wide(params[name]["bias"])

    # Padded before the shift, so that pixels outside of the image are black.
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = (padded.astype(jnp.float32) - CENTRE) / SCALE
    x = jax.nn.relu(normed("stem", x, pad="VALID"))
    for block, stride in _BLOCKS:
        y = jax.nn.relu(normed(f"{block}/first", x, stride))
        y = normed(f"{block}/second", y)
        if stride > 1:
            layer = params[f"{block}/shortcut"]
            x = _convolution(layer["kernel"], x, stride) + _wide(layer["bias"])
        x = jax.nn.relu(x + y)
    head = params["head"]
    return x.mean(axis=(1, 2)) @ head["kernel"] + head["bias"][None], new


def _convolution(kernel: Any, x: Any, stride: int, padding: str = "SAME") -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _wide(vector: jax.Array) -> jax.Array:
    return vector[None, None, None]


def _statistics(y: jax.Array) -> dict[str, jax.Array]:
    return {"mean": y.mean((0, 1, 2)), "variance": y.var((0, 1, 2))}


def _moved(statistics: dict[str, jax.Array], y: jax.Array) -> dict[str, jax.Array]:
    """The statistics, a step nearer to those of this batch."""
    found = _statistics(y)
    return {
        name: _MOMENTUM * old + (1 - _MOMENTUM) * jax.lax.stop_gradient(found[name])
        for name, old in statistics.items()
    }


def from_scratch(key: jax.Array, widths: tuple[int, int, int]) -> tuple[Arrays, Arrays]:
    """He-normal kernels of a ResNet-8 with other widths."""
    keys = iter(jax.random.split(key, 10))
    params: Arrays = {}

    def layer(name: str, *shape: int) -> None:
        init = jax.nn.initializers.he_normal()
        kernel = init(next(keys), shape, jnp.float32)
        params[name] = {"kernel": kernel, "bias": jnp.zeros(shape[-1])}
        if name in NORMED:
            params[name]["scale"] = jnp.ones(shape[-1])

    layer("stem", 3, 3, 3, widths[0])
    inside = widths[0]
    for (block, stride), width in zip(_BLOCKS, widths, strict=True):
        layer(f"{block}/first", 3, 3, inside, width)
        layer(f"{block}/second", 3, 3, width, width)
        if stride > 1:
            layer(f"{block}/shortcut", 1, 1, inside, width)
        inside = width
    layer("head", inside, _CLASSES)
    zeros = {name: jnp.zeros_like(params[name]["scale"]) for name in NORMED}
    state = {name: {"mean": x, "variance": x + 1.0} for name, x in zeros.items()}
    return params, state


def build(key: jax.Array, widths: str = "pretrained") -> compress.Model:
    """ResNet-8: `pretrained`, `large` (likewise) or from scratch with three widths."""
    if widths == "pretrained":
        params, state = cifar_pretrained.small()
    elif widths == "large":
        images = jnp.asarray(cifar10_jpeg.load("train")["x"][::100])
        params, state = unfolded(*cifar_pretrained.large_folded(), images)
    else:
        sizes = [int(part) for part in widths.split("-") if part.isdecimal()]
        if len(sizes) != len(_BLOCKS) or 0 in sizes:
            raise ValueError(
                f"cifar: model.widths={widths!r} must be 'pretrained', 'large' or "
                "three widths, '16-32-64'."
            )
        params, state = from_scratch(key, (sizes[0], sizes[1], sizes[2]))

    def forward(
        params: Any, model_state: Any, x: Any, train: bool = False, key: Any = None
    ) -> Any:
        return logits(params, model_state, x, train)

    return compress.Model(forward, params, state)


def unfolded(params: Arrays, state: Arrays, images: jax.Array) -> tuple[Arrays, Arrays]:
    """The same function with a BatchNorm that can be trained.

    The mean and variance of what convolutions give on these images become the
    statistics; scale and bias undo them.
    """
    measure = jax.jit(lambda *arrays: logits(*arrays, measure=True)[1])
    measured = measure(params, state, images)
    params = {name: dict(layer) for name, layer in params.items()}
    for name, statistics in measured.items():
        params[name]["scale"] = jnp.sqrt(statistics["variance"] + EPSILON)
        params[name]["bias"] = params[name]["bias"] + statistics["mean"]
    return params, measured


def augment(key: jax.Array, batch: Any) -> Any:
    """Half of the images mirrored, all moved by up to four pixels."""
    mirror_key, shift_key = jax.random.split(key)
    x = batch["x"]
    mirrored = jax.random.bernoulli(mirror_key, shape=(len(x), 1, 1, 1))
    x = jnp.where(mirrored, x[:, :, ::-1], x)
    padded = jnp.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)))
    starts = jax.random.randint(shift_key, (len(x), 2), 0, 9)

    def cut(image: Any, at: Any) -> Any:
        return jax.lax.dynamic_slice(image, (at[0], at[1], 0), (32, 32, 3))

    return {**batch, "x": jax.vmap(cut)(padded, starts)}


def load(train: int, test: int) -> dict[str, dict[str, np.ndarray]]:
    """Images to train on, 2,000 others for the curves, and test images."""
    images = cifar10_jpeg.load("train")
    order = np.random.default_rng(0).permutation(len(images["y"]))
    validation, rest = order[:_VALIDATION], order[_VALIDATION:]
    return {
        "validation": {name: x[validation] for name, x in images.items()},
        "train": {name: x[_some(rest, train)] for name, x in images.items()},
        "test": _drawn(cifar10_jpeg.load("test"), test),
    }


def _drawn(images: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """In the archive's order, which is by class, if all are taken."""
    order = np.random.default_rng(0).permutation(len(images["y"]))
    chosen = np.sort(_some(order, count))
    return {name: x[chosen] for name, x in images.items()}


def _some(rows: np.ndarray, count: int) -> np.ndarray:
    if not 1 <= count <= len(rows):
        raise ValueError(f"cifar: {count} images: give 1 to {len(rows)}.")
    return rows[:count]


def task(train: int = 48_000, test: int = 10_000) -> compress.Task:
    """The task for a config: `task: experiments.tasks.cifar:task`.

    Args:
      train: Images to train on, drawn with a fixed seed; 2,000 others are for the
        curves.
      test: Test images, likewise.

    Raises:
      FileNotFoundError: If the archive is not there.
    """
    data = load(train, test)
    return compress.Task(
        build=build,
        train=data["train"],
        validation=data["validation"],
        test=data["test"],
        loss=cross_entropy,
        correct=correct,
        augment=augment,
    )
