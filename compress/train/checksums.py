"""A checksum of each array of a checkpoint, which any sharding of it gives.

The storage below has checksums of its structure, not of the numbers: a flipped bit in
them would be read as it is.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from compress import processes
from compress.annotations import Shaped

Slices = tuple[slice, ...]


def checksums(arrays: Mapping[str, Any]) -> dict[str, int]:
    """By name, the sum of `bits * (2 * position + 1)` modulo 2**32.

    Integers add up to the same in any order, so each process adds its own part. A
    changed bit changes the sum: an odd factor keeps it from being 0 modulo 2**32.

    Args:
      arrays: NumPy's or JAX's, random keys among them; the latter may be split over
        the devices of several processes.
    """
    own = np.array([_sum(array) for array in arrays.values()], np.uint32)
    if processes.several():
        everyone = np.asarray(multihost_utils.process_allgather(own))
        own = everyone.sum(axis=0, dtype=np.uint32)
    return dict(zip(arrays, own.tolist(), strict=True))


def _sum(array: Any) -> np.uint32:
    """Over the parts of an array that count in this process."""
    sums = [
        np.sum(_bits(part) * _factors(index, shape), dtype=np.uint32)
        for part, index, shape in _parts(array)
    ]
    return np.sum(sums, dtype=np.uint32)


def _parts(
    array: Any,
) -> Iterator[tuple[Shaped[np.ndarray, "..."], Slices, tuple[int, ...]]]:
    """Each element of an array once, over all processes."""
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    if not isinstance(array, jax.Array):
        if processes.is_primary():
            yield np.asarray(array), (slice(None),) * array.ndim, array.shape
        return
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            yield np.asarray(shard.data), shard.index, array.shape


def _bits(part: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "size"]:
    flat = np.ascontiguousarray(part).reshape(-1)
    if flat.itemsize > 4:
        halves = flat.view(np.uint32).reshape(-1, flat.itemsize // 4)
        return np.bitwise_xor.reduce(halves, axis=1)
    return flat.view(f"u{flat.itemsize}").astype(np.uint32)


def _factors(index: Slices, shape: tuple[int, ...]) -> Shaped[np.ndarray, "size"]:
    """`2 * position + 1` of each element, by its place in the whole array."""
    positions = np.zeros((1,) * len(shape), np.uint32)
    for axis, (chosen, size) in enumerate(zip(index, shape, strict=True)):
        stride = math.prod(shape[axis + 1 :]) % 2**32
        along = np.arange(size, dtype=np.uint32)[chosen] * np.uint32(stride)
        positions = positions + np.expand_dims(
            along, tuple(i for i in range(len(shape)) if i != axis)
        )
    return positions.reshape(-1) * np.uint32(2) + np.uint32(1)
