"""The grid a quantizer will round weights to, asked of the quantizer itself."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compress.annotations import Bool, Float, PyTree
from compress.interpret import Quantized
from compress.sites import flatten_parameters, parameter_paths
from compress.transform import State, Transform, init
from compress.transform import parameters as seen_parameters

# Later than any schedule starts: the quantizer is on.
_ON = 2**31 - 1


# A step of 127 times an error of float32, with room for two roundings.
_EXACT = 1e-4


class WeightGrid(NamedTuple):
    """The integers one parameter is rounded to.

    Attributes:
      scale: Size of one step, for each weight.
      anchor: For each scale the largest weight: where it stays the largest, the
        quantizer finds the same scale again.
      limit: The largest integer.
    """

    scale: Float[np.ndarray, "..."]
    anchor: Bool[np.ndarray, "..."]
    limit: int


class Quantizer(NamedTuple):
    """A transform that quantizes weights.

    Attributes:
      name: Of the transform.
      boxes: `(params) -> ` the parameters as it sees them; leaves are boxes.
      paths: Of the parameters to prune, those it quantizes.
    """

    name: str
    boxes: Callable[[PyTree], PyTree]
    paths: frozenset[str]

    def grid(self, params: PyTree, path: str) -> WeightGrid:
        """The grid that one of the parameters is rounded to."""
        return _grid(_boxes_of(self.boxes(params))[path])

    def moved(self, params: PyTree) -> dict[str, int]:
        """How many weights of each parameter are not on their grid, by path."""
        boxes, weights = _boxes_of(self.boxes(params)), parameter_paths(params)
        return {
            path: _off_grid(boxes[path], np.asarray(weights[path], np.float32))
            for path in sorted(self.paths)
        }


def quantizer_of(
    transform: Transform,
    forward: Callable[..., Any],
    params: PyTree,
    inputs: tuple[Any, ...],
    paths: Collection[str],
) -> Quantizer:
    """What a transform does to the weights of some parameters.

    Raises:
      ValueError: If it quantizes none of them.
    """
    memory = init(forward, transform, params, *inputs).memory
    state = State(jnp.asarray(_ON, jnp.int32), memory)
    boxes = jax.jit(lambda params: seen_parameters(transform, params, state))
    found = frozenset(_boxes_of(boxes(params))) & frozenset(paths)
    if not found:
        raise ValueError(
            f"prune.one_shot: quantize={transform.name} quantizes the weights of none "
            "of the sites to prune. Give compress.quantize.fake_quant(...) with the "
            "same sites."
        )
    return Quantizer(transform.name, boxes, found)


def _boxes_of(seen: PyTree) -> dict[str, Quantized]:
    paths, leaves, _ = flatten_parameters(seen)
    pairs = zip(paths, leaves, strict=True)
    return {path: leaf for path, leaf in pairs if isinstance(leaf, Quantized)}


def _grid(box: Quantized) -> WeightGrid:
    shape = box.qvalue.shape
    scale = np.asarray(box.scale, np.float32)
    magnitude = np.abs(np.asarray(box.qvalue)) * scale
    shared = [a for a, size in enumerate(scale.shape) if size == 1]
    own = [a for a in range(len(shape)) if a not in shared]
    rows = magnitude.transpose([*own, *shared])
    flat = rows.reshape(int(np.prod([shape[a] for a in own], dtype=int)), -1)
    largest = np.zeros(flat.shape, bool)
    np.put_along_axis(largest, flat.argmax(1)[:, None], True, axis=1)
    largest &= flat > 0.0
    anchor = largest.reshape(rows.shape).transpose(np.argsort([*own, *shared]))
    return WeightGrid(np.broadcast_to(scale, shape), anchor, 2 ** (box.bits - 1) - 1)


def _off_grid(box: Quantized, weights: Float[np.ndarray, "..."]) -> int:
    """Weights that rounding moves by more than float32 rounds them."""
    scale = np.asarray(box.scale, np.float32)
    steps = weights / scale - np.asarray(box.qvalue)
    return int((np.abs(steps) > _EXACT).sum())
