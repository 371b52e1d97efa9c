"""CIFAR-10-JPEG with MLPerf Tiny's ResNet-8, pretrained or from scratch.

BatchNorm is folded into the convolutions, so fine-tuning is of the network that ships.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import compress
from experiments.tasks import cifar10_jpeg, resnet8

_CLASSES = 10
_VALIDATION = 2000
# Pixels become -2 to 2; the pretrained stem takes -128 to 127.
_SCALE = 64.0
_BLOCKS = (("block1", 1), ("block2", 2), ("block3", 2))


def logits(params: Any, x: jax.Array) -> jax.Array:
    """Logits `[batch, 10]` of images `[batch, 32, 32, 3]`, uint8."""
    # Padded before the shift, so that pixels outside of the image are black.
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = (padded.astype(jnp.float32) - 128.0) / _SCALE
    x = jax.nn.relu(_convolution(params["stem"], x, padding="VALID"))
    for block, stride in _BLOCKS:
        y = jax.nn.relu(_convolution(params[block]["first"], x, stride))
        y = _convolution(params[block]["second"], y)
        if "shortcut" in params[block]:
            x = _convolution(params[block]["shortcut"], x, stride)
        x = jax.nn.relu(x + y)
    head = params["head"]
    return x.mean(axis=(1, 2)) @ head["kernel"] + head["bias"][None]


def _convolution(
    layer: Any, x: jax.Array, stride: int = 1, padding: str = "SAME"
) -> jax.Array:
    y = jax.lax.conv_general_dilated(
        x,
        layer["kernel"],
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + layer["bias"][None, None, None]


def pretrained() -> Any:
    """MLPerf's weights, for pixels from -2 to 2."""
    flat = resnet8.load_params()
    params: dict[str, Any] = {"stem": dict(flat["stem"]), "head": flat["head"]}
    kernel = params["stem"]["kernel"]
    params["stem"]["bias"] = params["stem"]["bias"] + 128.0 * kernel.sum((0, 1, 2))
    params["stem"]["kernel"] = kernel * _SCALE
    for name, layer in flat.items():
        block, _, part = name.partition("/")
        if part:
            params.setdefault(block, {})[part] = layer
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


def random_params(key: jax.Array, widths: tuple[int, int, int]) -> Any:
    """He-normal kernels of a ResNet-8 with other widths."""
    keys = iter(jax.random.split(key, 10))

    def layer(*shape: int) -> dict[str, jax.Array]:
        init = jax.nn.initializers.he_normal(in_axis=-2, out_axis=-1)
        kernel = init(next(keys), shape, jnp.float32)
        return {"kernel": kernel, "bias": jnp.zeros(shape[-1])}

    params: dict[str, Any] = {"stem": layer(3, 3, 3, widths[0])}
    inside = widths[0]
    for (block, stride), width in zip(_BLOCKS, widths, strict=True):
        params[block] = {
            "first": layer(3, 3, inside, width),
            "second": layer(3, 3, width, width),
        }
        if stride > 1:
            params[block]["shortcut"] = layer(1, 1, inside, width)
        inside = width
    return params | {"head": layer(inside, _CLASSES)}


def build(key: jax.Array, widths: str = "pretrained") -> compress.Model:
    """ResNet-8: `pretrained`, or from scratch with three widths, `16-32-64`."""
    if widths == "pretrained":
        params = pretrained()
    else:
        sizes = [int(part) for part in widths.split("-") if part.isdecimal()]
        if len(sizes) != len(_BLOCKS) or 0 in sizes:
            raise ValueError(
                f"cifar: model.widths={widths!r} must be 'pretrained' or three widths, "
                "'16-32-64'."
            )
        params = random_params(key, (sizes[0], sizes[1], sizes[2]))

    def forward(
        params: Any, model_state: Any, x: Any, train: bool = False, key: Any = None
    ) -> Any:
        return logits(params, x), model_state

    return compress.Model(forward, params, {})


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


def cross_entropy(outputs: jax.Array, batch: Any) -> jax.Array:
    """Mean over the batch."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, batch["y"]).mean()


def correct(outputs: jax.Array, batch: Any) -> jax.Array:
    """Whether the largest logit is the label's."""
    return jnp.argmax(outputs, -1) == batch["y"]


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
