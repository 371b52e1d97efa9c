"""Masks with an exact number of zeros, without a sort: scores are only ever counted.

A float32 score is read as an integer of the same order (its *key*). The largest key
with at most `num_pruned` keys below it is found by counting how many are below seven
thresholds at a time: the first seven come from a small sample, the next from
interpolation, until one key is left. Of the scores equal to it the first ones are
pruned; where the last of those is, is found by counting too. Scores are read three to
five times and never moved, so arrays that are sharded stay where they are.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compress.annotations import Array, Bool, Float, Int, PyTree

AxisName = str | tuple[str, ...] | None
# thresholds -> how many are below each, and the same by row of each array
Count = Callable[[Array], tuple[Array, list[Array]]]

# Reading the scores still costs more than comparing them with this many.
_POINTS = 7
# Ranks in the sample to begin with, in standard deviations of the target's own.
_DEVIATIONS = np.array([-4.0, -1.5, -0.5, 0.0, 0.5, 1.5, 4.0], np.float32)
_SAMPLE = 2**16
# Half the sample's size in scores that are read anyway.
_SAMPLED_FROM = 4 * _SAMPLE
_DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)
_NAN = np.int32(2**31 - 3)
_LOWEST = np.int32(-(2**31))
# Above every key: that of NaN is one less.
_LAST = np.uint32(2**32 - 2)
# A row of a flat array: its counts are found in parallel, and it fits in the cache.
_ROW = 8192
# Arrays of fewer scores are put together first.
_SMALL = 2**18
_FILLED = 256


@functools.partial(jax.jit, static_argnames="axis_name")
def keep_largest(
    scores: PyTree,
    num_pruned: Int[Array, ""] | int,
    *,
    axis_name: AxisName = None,
) -> PyTree:
    """True everywhere but at the `num_pruned` smallest scores.

    Among equal scores the first ones are pruned, so the count is exact under any
    ties. 0.0 and -0.0 are equal; NaN counts as the largest, and equals NaN.

    Args:
      scores: Importance of each weight, in float32, bfloat16 or float16: an array,
        or a pytree of arrays that are ranked together, in the order of its leaves.
      num_pruned: How many to prune in all, 0 to the number of scores.
      axis_name: Inside `jax.shard_map`, the mesh axes over which the scores are
        split: the scores of all their devices are ranked together. Among equal
        scores of one array, those on the first device are the first.

    Raises:
      TypeError: If scores are not in one of these dtypes.
      ValueError: If there are 2**31 scores or more: they are counted in int32.
    """
    leaves, structure = jax.tree.flatten(scores)
    runs = [[leaf] for leaf in leaves] if axis_name else _runs(leaves)
    arrays = [_joined(run) for run in runs]
    masks = _kept(arrays, jnp.asarray(num_pruned, jnp.int32), axis_name)
    parts = [part for run, mask in zip(runs, masks) for part in _parted(run, mask)]
    return jax.tree.unflatten(structure, parts)


def _kept(arrays: list[Array], target: Array, axis_name: AxisName) -> list[Array]:
    views = [_rows_of(jax.lax.stop_gradient(array)) for array in arrays]
    total = sum(view.size for view in views) * _num_devices(axis_name)
    _check(arrays, total, axis_name)
    found = _threshold(views, target, total, axis_name)
    ties = [high - low for low, high in found.rows]
    budget = _own_share(target - found.below[0], ties, axis_name)
    key = _signed(found.keys[0])
    ends = _ends(views, key, ties, budget)
    masks = [_mask(view, key, end) for view, end in zip(views, ends)]
    return [mask.reshape(x.shape) for mask, x in zip(masks, arrays)]


def _runs(leaves: list[Array]) -> list[list[Array]]:
    """Small neighbours together: every array adds to the time of compilation."""
    runs: list[list[Array]] = []
    for leaf in leaves:
        small = leaf.size < _SMALL
        if small and runs and runs[-1][-1].size < _SMALL:
            runs[-1].append(leaf)
        else:
            runs.append([leaf])
    return runs


def _joined(run: list[Array]) -> Array:
    """One after the other, in whole rows: what fills the last one is never pruned."""
    if len(run) == 1:
        return run[0]
    _check(run, 0, None)
    flat = jnp.concatenate([leaf.ravel().astype(jnp.float32) for leaf in run])
    return jnp.pad(flat, (0, -flat.size % _FILLED), constant_values=np.nan)


def _parted(run: list[Array], mask: Array) -> list[Array]:
    if len(run) == 1:
        return [mask]
    ends = np.cumsum([leaf.size for leaf in run])
    parts = jnp.split(mask[: ends[-1]], ends[:-1])
    return [part.reshape(leaf.shape) for part, leaf in zip(parts, run)]


@jax.jit
def keep_largest_per_row(
    scores: Float[Array, "rows *row"], num_pruned: Int[Array, "*#rows"] | int
) -> Bool[Array, "rows *row"]:
    """`keep_largest` in each row, with a number for all rows or one for each."""
    counts = jnp.broadcast_to(num_pruned, scores.shape[:1])
    return jax.vmap(keep_largest)(scores, counts)


class _Bracket(NamedTuple):
    """Where the threshold is: between two keys, of which the first may be it.

    Attributes:
      keys: At most the target's number of scores are below the first, more are below
        the second.
      below: How many are, on all devices.
      rows: By array, how many of each row are; on this device.
      points: The keys to try next.
    """

    keys: Array
    below: Array
    rows: list[Array]
    points: Array


def _search(count: Count, bracket: _Bracket, target: Array) -> _Bracket:
    """Narrows it to one key, or to a first one with just the target's number below."""

    def unfinished(b: _Bracket) -> Array:
        return (b.keys[1] - b.keys[0] > 1) & (b.below[0] != target)

    def narrow(b: _Bracket) -> _Bracket:
        keys = jnp.concatenate([b.keys, b.points])
        counts, counted = count(b.points)
        below = jnp.concatenate([b.below, counts])
        rows = [jnp.concatenate(both) for both in zip(b.rows, counted)]
        fits = jnp.concatenate([np.array([True, False]), counts <= target])
        low = jnp.argmax(jnp.where(fits, keys, 0))
        high = jnp.argmin(jnp.where(fits, _LAST + 1, keys))
        ends = jnp.stack([low, high])
        pick = lambda x: x.at[ends].get(mode="promise_in_bounds")  # noqa: E731
        keys, below, rows = jax.tree.map(pick, (keys, below, rows))
        return _Bracket(keys, below, rows, _interpolate(keys, below, target))

    start = jax.tree.map(_varying_as, bracket, jax.eval_shape(narrow, bracket))
    return jax.lax.while_loop(unfinished, narrow, start)


def _varying_as(value: Array, result: jax.ShapeDtypeStruct) -> Array:
    """The value with the type that the loop gives it inside `jax.shard_map`."""
    axes = _split_axes(result) - _split_axes(jax.typeof(value))
    return jax.lax.pcast(value, tuple(axes), to="varying") if axes else value


def _split_axes(of: Any) -> frozenset[str]:
    """The mesh axes whose devices may hold other values; none outside `shard_map`."""
    manual = of.manual_axis_type
    return manual.varying if manual else frozenset()


def _interpolate(keys: Array, below: Array, target: Array) -> Array:
    """Thresholds inside a bracket, for the next pass.

    Four are near the likely one, which is off by about the square root of the number
    inside. One ends the search if many scores are equal to the lowest. Two divide the
    bracket by three, whatever the distribution.
    """
    width = keys[1] - keys[0]
    size = width.astype(jnp.float32)
    inside = jnp.maximum(below[1] - below[0], 1).astype(jnp.float32)
    likely = size * ((target - below[0]).astype(jnp.float32) + 0.5) / inside
    step = jnp.maximum(1.0, 0.375 * size / jnp.sqrt(inside))
    near = likely + step * np.array([-1.5, -0.5, 0.5, 1.5], np.float32)
    even = size * np.array([0.0, 1 / 3, 2 / 3], np.float32)  # 0 becomes 1 below
    # Below 2**32, where a float32 has steps of 256.
    offsets = jnp.clip(jnp.concatenate([near, even]), 1.0, np.float32(2**32 - 256))
    all_inside = jnp.arange(1, _POINTS + 1, dtype=jnp.uint32)
    offsets = jnp.where(width <= _POINTS + 1, all_inside, offsets.astype(jnp.uint32))
    return keys[0] + jnp.clip(offsets, 1, width - 1)


def _threshold(
    views: list[Array], target: Array, total: int, axis_name: AxisName
) -> _Bracket:
    """The largest key with at most the target's number below it."""
    points = _evenly(_LAST)
    if total >= _SAMPLED_FROM:
        points = _sampled(views, target, total, axis_name)
    full = _whole(views, points, total)
    count = functools.partial(_count_keys, views, axis_name)
    return _search(count, full, target)


def _sampled(
    views: list[Array], target: Array, total: int, axis_name: AxisName
) -> Array:
    """Keys of a sample around the target; of many equal scores likely the right one."""
    sample = [_every(view, total // _SAMPLE) for view in views]
    size = sum(part.size for part in sample) * _num_devices(axis_name)
    fraction = target.astype(jnp.float32) / total
    deviation = jnp.sqrt(size * fraction * (1.0 - fraction)) + 1.0
    ranks = size * fraction + deviation * _DEVIATIONS
    ranks = jnp.clip(ranks, 0.0, size - 1.0).astype(jnp.int32)
    count = functools.partial(_count_keys, sample, axis_name)
    full = _whole(sample, _evenly(_LAST), size)
    return jax.vmap(lambda rank: _search(count, full, rank).keys[0])(ranks)


def _every(view: Array, step: int) -> Array:
    """About one of `step` scores, spread over all axes."""
    share = math.log(step) / math.log(max(view.size, 2))
    return view[tuple(slice(None, None, int(d**share) or 1) for d in view.shape)]


def _evenly(end: np.uint32) -> Array:
    return jnp.asarray(np.linspace(0, end, _POINTS).astype(np.uint32))


def _whole(views: list[Array], points: Array, total: int) -> _Bracket:
    """The bracket that holds every key."""
    ends = jnp.asarray([0, _LAST], jnp.uint32)
    rows = [
        jnp.stack([jnp.zeros(shape, jnp.int32), jnp.full(shape, size, jnp.int32)])
        for *shape, size in (view.shape for view in views)
    ]
    return _Bracket(ends, jnp.asarray([0, total], jnp.int32), rows, points)


def _count_keys(
    views: list[Array], axis_name: AxisName, points: Array
) -> tuple[Array, list[Array]]:
    """How many scores are below each key."""
    # Else XLA takes the keys out of the loop: a copy of all scores, written and read.
    views, points = jax.lax.optimization_barrier((views, points))
    limits = jnp.unstack(_signed(points))
    rows = []
    for keys in map(_keys, views):
        below = [(keys < limit).astype(jnp.int32) for limit in limits]
        rows.append(jnp.stack(_sums_of_last_axis(below)))
    counts = jnp.stack([jnp.sum(of, tuple(range(1, of.ndim))) for of in rows]).sum(
        axis=0
    )
    return _over_devices(counts, axis_name), rows


def _sums_of_last_axis(values: Sequence[Array]) -> Sequence[Array]:
    """In one pass over all of them.

    XLA:CPU makes one loop of what one `reduce` sums, and vectorizes it; separate sums
    took a hundred times as long.
    """
    zeros = [np.int32(0)] * len(values)
    add = lambda a, b: [x + y for x, y in zip(a, b)]  # noqa: E731
    return jax.lax.reduce(values, zeros, add, (values[0].ndim - 1,))


def _keys(scores: Array) -> Array:
    """Integers in the order of the scores: 0.0 and -0.0 are equal, NaN the largest."""
    scores = scores.astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(scores, jnp.int32)
    ordered = jnp.where(bits < 0, _LOWEST - bits, bits)
    return jnp.where(jnp.isnan(scores), _NAN, ordered)


def _own_share(budget: Array, ties: list[Array], axis_name: AxisName) -> Array:
    """How many of the pruned ties are this device's."""
    if axis_name is None:
        return budget
    own = jnp.stack([jnp.sum(rows) for rows in ties])
    device = jax.lax.axis_index(axis_name)
    columns = jnp.arange(_num_devices(axis_name)) == device
    every = jax.lax.psum(jnp.where(columns[None], own[:, None], 0), axis_name)
    before = jnp.cumsum(every.ravel()).reshape(every.shape)[:, device] - own
    return jnp.sum(jnp.clip(budget - before, 0, own))


def _ends(
    views: list[Array], key: Array, ties: list[Array], budget: Array
) -> list[Array]:
    """By array, the position before which ties are pruned: `budget` of them in all."""
    row, left = _position(jnp.concatenate([rows.ravel() for rows in ties]), budget)
    sizes = [rows.size for rows in ties]
    firsts = np.cumsum([0, *sizes])
    width = max(view.shape[-1] for view in views)
    in_row, inside = jnp.zeros(width, jnp.int32), []
    for view, first, size in zip(views, firsts, sizes):
        inside.append((row >= first) & (row < first + size))
        tied = _keys(_row(view, jnp.clip(row - first, 0, size - 1))) == key
        tied = jnp.pad(tied & inside[-1], (0, width - tied.size))
        in_row = in_row + tied.astype(jnp.int32)
    column, _ = _position(in_row, left)
    return [
        jnp.clip(row - first, 0, size) * view.shape[-1] + jnp.where(own, column, 0)
        for view, first, size, own in zip(views, firsts, sizes, inside)
    ]


def _position(weights: Int[Array, "size"], budget: Array) -> tuple[Array, Array]:
    """The largest position with at most `budget` before it, and what is left of it."""
    sums = jnp.cumsum(weights)
    position = jnp.sum(sums <= budget, dtype=jnp.int32)
    before = jnp.max(jnp.where(sums <= budget, sums, 0))
    return position, budget - before


def _mask(view: Array, key: Array, end: Array) -> Array:
    strides = [math.prod(view.shape[axis + 1 :]) for axis in range(view.ndim)]
    position = sum(
        stride * jax.lax.broadcasted_iota(jnp.int32, view.shape, axis)
        for axis, stride in enumerate(strides)
    )
    keys = _keys(view)
    return (keys > key) | ((keys == key) & (position >= end))


def _signed(keys: Array) -> Array:
    """As scores have them: in the same order, around zero."""
    return jax.lax.bitcast_convert_type(keys ^ np.uint32(2**31), jnp.int32)


def _row(view: Array, index: Array) -> Array:
    # With a vector of one index, partitioned arrays are read where they are.
    indices = jnp.unravel_index(index[None], view.shape[:-1])
    return view[indices][0]


def _rows_of(leaf: Array) -> Array:
    """The same scores in rows; only a flat array is given another shape."""
    if leaf.ndim > 1:
        return leaf
    divisors = [d for d in range(64, _ROW + 1) if leaf.size % d == 0]
    return leaf.reshape(-1, divisors[-1] if divisors else leaf.size)


def _over_devices(counts: Array, axis_name: AxisName) -> Array:
    return counts if axis_name is None else jax.lax.psum(counts, axis_name)


def _num_devices(axis_name: AxisName) -> int:
    return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def _check(leaves: list[Array], total: int, axis_name: AxisName) -> None:
    for leaf in leaves:
        if leaf.dtype not in _DTYPES:
            raise TypeError(
                f"keep_largest: scores of shape {leaf.shape} are {leaf.dtype}. Convert "
                "them to float32, bfloat16 or float16."
            )
    if total >= 2**31:
        raise ValueError(
            f"keep_largest: {total} scores are more than int32 can count. Rank fewer "
            "together, for example each site alone."
        )
    names = {axis_name} if isinstance(axis_name, str) else set(axis_name or ())
    if len({_split_axes(jax.typeof(leaf)) & names for leaf in leaves}) > 1:
        raise ValueError(
            f"keep_largest: some scores are split over {sorted(names)} and some are "
            "not, and would be counted on every device. Rank them apart."
        )
