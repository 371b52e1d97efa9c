"""CIFAR-10-JPEG with MLPerf Tiny's ResNet-8, pretrained or from scratch.

BatchNorm is kept: without it, a network that lost weights recovers slowly, and with its
factors folded into the kernels, weights of different layers cannot be compared.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import compress
from experiments.data import data_file
from experiments.tasks import cifar10_jpeg
from experiments.tasks.digits import correct, cross_entropy

_CLASSES = 10
_VALIDATION = 2000
# Pixels become -2 to 2; the pretrained stem takes 0 to 255.
_SCALE, _CENTRE = 64.0, 128.0
_EPSILON, _MOMENTUM = 1e-3, 0.9
_BLOCKS = (("block1", 1), ("block2", 2), ("block3", 2))
# Name of ours: convolution and BatchNorm in the file.
_NORMED = {
    "stem": ("conv2d", "batch_normalization"),
    "block1/first": ("conv2d_1", "batch_normalization_1"),
    "block1/second": ("conv2d_2", "batch_normalization_2"),
    "block2/first": ("conv2d_3", "batch_normalization_3"),
    "block2/second": ("conv2d_4", "batch_normalization_4"),
    "block3/first": ("conv2d_6", "batch_normalization_5"),
    "block3/second": ("conv2d_7", "batch_normalization_6"),
}
_PLAIN = {"block2/shortcut": "conv2d_5", "block3/shortcut": "conv2d_8"}
Arrays = dict[str, dict[str, jax.Array]]


def logits(
    params: Arrays, model_state: Arrays, x: jax.Array, train: bool = False
) -> tuple[jax.Array, Arrays]:
    """Logits `[batch, 10]` of images `[batch, 32, 32, 3]`, uint8; new statistics."""
    new = dict(model_state)

    def normed(name: str, x: jax.Array, stride: int = 1, pad: str = "SAME") -> Any:
        y = _convolution(params[name]["kernel"], x, stride, pad)
        if train:
            new[name] = _moved(model_state[name], y)
            mean, variance = y.mean((0, 1, 2)), y.var((0, 1, 2))
        else:
            mean, variance = model_state[name]["mean"], model_state[name]["variance"]
        factor = params[name]["scale"] * jax.lax.rsqrt(variance + _EPSILON)
        return (y - _wide(mean)) * _wide(factor) + _wide(params[name]["bias"])

    # Padded before the shift, so that pixels outside of the image are black.
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = (padded.astype(jnp.float32) - _CENTRE) / _SCALE
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


def _moved(statistics: dict[str, jax.Array], y: jax.Array) -> dict[str, jax.Array]:
    """The statistics, a step nearer to those of this batch."""
    found = {"mean": y.mean((0, 1, 2)), "variance": y.var((0, 1, 2))}
    return {
        name: _MOMENTUM * old + (1 - _MOMENTUM) * jax.lax.stop_gradient(found[name])
        for name, old in statistics.items()
    }


def pretrained() -> tuple[Arrays, Arrays]:
    """MLPerf's weights and statistics, for pixels from -2 to 2.

    Raises:
      FileNotFoundError: If the data is not there.
    """
    import h5py  # only who reads the file needs it

    params, state = {}, {}
    with h5py.File(data_file("mlperf_tiny/resnet8_cifar10.h5")) as file:
        weights = file["model_weights"]

        def read(layer: str, name: str) -> np.ndarray:
            return np.asarray(weights[f"{layer}/{layer}/{name}:0"], np.float32)

        for name, (layer, norm) in _NORMED.items():
            kernel, mean = read(layer, "kernel"), read(norm, "moving_mean")
            mean = mean - read(layer, "bias")
            if name == "stem":
                mean = mean - _CENTRE * kernel.sum((0, 1, 2))
                kernel = kernel * _SCALE
            scale, bias = read(norm, "gamma"), read(norm, "beta")
            params[name] = {"kernel": kernel, "scale": scale, "bias": bias}
            state[name] = {"mean": mean, "variance": read(norm, "moving_variance")}
        for name, layer in {**_PLAIN, "head": "dense"}.items():
            params[name] = {key: read(layer, key) for key in ("kernel", "bias")}
    return jax.tree.map(jnp.asarray, (params, state))


def from_scratch(key: jax.Array, widths: tuple[int, int, int]) -> tuple[Arrays, Arrays]:
    """He-normal kernels of a ResNet-8 with other widths."""
    keys = iter(jax.random.split(key, 10))
    params: Arrays = {}

    def layer(name: str, *shape: int) -> None:
        init = jax.nn.initializers.he_normal()
        kernel = init(next(keys), shape, jnp.float32)
        params[name] = {"kernel": kernel, "bias": jnp.zeros(shape[-1])}
        if name in _NORMED:
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
    zeros = {name: jnp.zeros_like(params[name]["scale"]) for name in _NORMED}
    state = {name: {"mean": x, "variance": x + 1.0} for name, x in zeros.items()}
    return params, state


def build(key: jax.Array, widths: str = "pretrained") -> compress.Model:
    """ResNet-8: `pretrained`, or from scratch with three widths, `16-32-64`."""
    if widths == "pretrained":
        params, state = pretrained()
    else:
        sizes = [int(part) for part in widths.split("-") if part.isdecimal()]
        if len(sizes) != len(_BLOCKS) or 0 in sizes:
            raise ValueError(
                f"cifar: model.widths={widths!r} must be 'pretrained' or three widths, "
                "'16-32-64'."
            )
        params, state = from_scratch(key, (sizes[0], sizes[1], sizes[2]))

    def forward(
        params: Any, model_state: Any, x: Any, train: bool = False, key: Any = None
    ) -> Any:
        return logits(params, model_state, x, train)

    return compress.Model(forward, params, state)


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


def load() -> dict[str, dict[str, np.ndarray]]:
    """48,000 images to train on, 2,000 for the curves, the 10,000 test images."""
    images = cifar10_jpeg.load("train")
    order = np.random.default_rng(0).permutation(len(images["y"]))
    cuts = {"validation": order[:_VALIDATION], "train": order[_VALIDATION:]}
    parts = {
        name: {key: x[rows] for key, x in images.items()} for name, rows in cuts.items()
    }
    return {**parts, "test": cifar10_jpeg.load("test")}


def task() -> compress.Task:
    """The task for a config: `task: experiments.tasks.cifar:task`."""
    data = load()
    return compress.Task(
        build=build,
        train=data["train"],
        validation=data["validation"],
        test=data["test"],
        loss=cross_entropy,
        correct=correct,
        augment=augment,
    )
