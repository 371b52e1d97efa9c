"""MLPerf Tiny's pretrained ResNet-8 and its large sibling, for pixels from -2 to 2.

Source: Banbury et al. 2021, https://arxiv.org/abs/2106.07597; the weights are those of
mlcommons/tiny (Apache 2.0).
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import data_file
from experiments.tasks.tflite import float_constants

# Pixels become -2 to 2; the pretrained stems take 0 to 255.
SCALE, CENTRE = 64.0, 128.0
EPSILON = 1e-3
# Name of ours: convolution and BatchNorm in the file.
NORMED = {
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
# The order of the convolutions in the large network's file.
_LARGE = (
    "stem",
    "block1/first",
    "block1/second",
    "block2/first",
    "block2/second",
    "block2/shortcut",
    "block3/first",
    "block3/second",
    "block3/shortcut",
    "head",
)


def small() -> tuple[Arrays, Arrays]:
    """Weights and statistics of the network with 16, 32 and 64 channels.

    Raises:
      FileNotFoundError: If the data is not there.
    """
    import h5py  # only who reads the file needs it

    params, state = {}, {}
    with h5py.File(data_file("mlperf_tiny/resnet8_cifar10.h5")) as file:
        weights = file["model_weights"]

        def read(layer: str, name: str) -> np.ndarray:
            return np.asarray(weights[f"{layer}/{layer}/{name}:0"], np.float32)

        for name, (layer, norm) in NORMED.items():
            kernel, mean = read(layer, "kernel"), read(norm, "moving_mean")
            mean = mean - read(layer, "bias")
            if name == "stem":
                mean = mean - CENTRE * kernel.sum((0, 1, 2))
                kernel = kernel * SCALE
            scale, bias = read(norm, "gamma"), read(norm, "beta")
            params[name] = {"kernel": kernel, "scale": scale, "bias": bias}
            state[name] = {"mean": mean, "variance": read(norm, "moving_variance")}
        for name, layer in {**_PLAIN, "head": "dense"}.items():
            params[name] = {key: read(layer, key) for key in ("kernel", "bias")}
    return jax.tree.map(jnp.asarray, (params, state))


def large_folded() -> tuple[Arrays, Arrays]:
    """The network with 40, 80 and 160 channels, whose file has BatchNorm folded.

    Norms are given statistics and factors that change nothing.

    Raises:
      FileNotFoundError: If the data is not there.
    """
    path = data_file("mlperf_tiny/resnet8_large_cifar10_float32.tflite")
    params, state = {}, {}
    for name, (kernel, bias) in zip(_LARGE, float_constants(path), strict=True):
        # The file has outputs first.
        kernel = kernel.T if name == "head" else kernel.transpose(1, 2, 3, 0)
        if name == "stem":
            bias = bias + CENTRE * kernel.sum((0, 1, 2))
            kernel = kernel * SCALE
        params[name] = {"kernel": kernel, "bias": bias}
        if name in NORMED:
            params[name]["scale"] = np.ones_like(bias)
            variance = np.full_like(bias, 1 - EPSILON)
            state[name] = {"mean": np.zeros_like(bias), "variance": variance}
    return jax.tree.map(jnp.asarray, (params, state))
