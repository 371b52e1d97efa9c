"""The grid a quantizer will round weights to, asked of the quantizer itself."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compress.annotations import Bool, Float, PyTree
from compress.interpret import Quantized
from compress.sites import flatten_parameters
from compress.transform import State, Transform, init
from compress.transform import parameters as seen_parameters

# Later than any schedule starts: the quantizer is on.
_ON = 2**31 - 1


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
    """A transform with its state, and its grids by path of a parameter."""

    transform: Transform
    state: State
    grids: Mapping[str, WeightGrid]

    def integers(self, params: PyTree) -> dict[str, Float[np.ndarray, "..."]]:
        """What the transform rounds the parameters to, by path, carried in floats."""
        boxes = _boxes(self.transform, self.state, params)
        return {path: np.asarray(boxes[path].qvalue) for path in self.grids}


def quantizer_of(
    transform: Transform,
    forward: Callable[..., Any],
    params: PyTree,
    inputs: tuple[Any, ...],
    paths: Collection[str],
) -> Quantizer:
    """The grids that a transform rounds some parameters to.

    Raises:
      ValueError: If it quantizes none of them.
    """
    memory = init(forward, transform, params, *inputs).memory
    state = State(jnp.asarray(_ON, jnp.int32), memory)
    boxes = _boxes(transform, state, params)
    grids = {path: _grid(box) for path, box in boxes.items() if path in paths}
    if not grids:
        raise ValueError(
            f"prune.one_shot: quantize={transform.name} quantizes the weights of none "
            "of the sites to prune. Give compress.quantize.fake_quant(...) with the "
            "same sites."
        )
    return Quantizer(transform, state, grids)


def _boxes(transform: Transform, state: State, params: PyTree) -> dict[str, Quantized]:
    """The parameters the transform quantizes, by path."""
    seen = jax.jit(lambda p, s: seen_parameters(transform, p, s))(params, state)
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
