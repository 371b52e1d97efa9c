"""How many bytes a compressed model takes, counted six ways.

A file format decides what sparsity is worth, so one number is never enough: the
same weights are counted dense, with a bitmask, with relative indices, at their
entropy, after zlib, and as the real file. Every column counts all arrays of the
weights file (scales, biases, parameters that were not compressed, the model's state);
the programs and the manifest of the artifact are in none of them.
"""

import math
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from compress.annotations import Int, Shaped

COLUMNS = {
    "file": "weights.safetensors as it lies on disk",
    "dense": "every weight at its bit width, zeros included",
    "bitmask": "one bit per weight, plus the weights that are not zero",
    "index": "every non-zero weight with the distance to the one before it",
    "entropy": "order-0 entropy of each weight array: a bound, not a file",
    "zlib": "all arrays together, compressed with zlib level 9",
    "float": "the float32 twin, 4 bytes per number",
}
"""What each column of `size_accounting` counts."""

_MAX_GAP_BITS = 16
_UNPACKED = {"int2": np.int8, "int4": np.int8, "uint2": np.uint8, "uint4": np.uint8}


class Shipped(NamedTuple):
    """One weight array as it is shipped.

    Attributes:
      values: The integers, or the floats of a site left in float.
      bits: Bits of one value in the file: 4 for int4 held in int8.
    """

    values: np.ndarray
    bits: int


def size_accounting(
    weights: Mapping[str, tuple[np.ndarray, int]],
    *,
    scales: Mapping[str, np.ndarray],
    others: Mapping[str, np.ndarray],
    file_bytes: int,
    num_float_parameters: int | None = None,
) -> dict[str, int]:
    """Bytes of a model in every column of the comparison.

    `bitmask` is `nnz * bits / 8 + n / 8` and `index` is
    `nnz * (bits + gap_bits) / 8` with fillers (see `index_bytes`), both applied to
    every array in `weights`; `scales` and `others` are added as stored. Bytes are
    rounded up per array.

    Source: relative index with fillers, Han et al. 2016, section 2.
    https://arxiv.org/abs/1510.00149

    Args:
      weights: The arrays that can be pruned or quantized, as (values, bits).
      scales: Scales and zero points: shipped, but not parameters of the float twin.
      others: Biases, every other parameter and the model's state, as stored.
      file_bytes: Size of the real weights file.
      num_float_parameters: Parameters of the float twin. The default counts
        `weights` and `others`; after structured pruning pass the number of the model
        before it shrank, or the shrinking will not show in the ratio.

    Returns:
      Bytes for each name in `COLUMNS`, and `weights_dense`, `weights_bitmask` and
      `weights_float` for the arrays in `weights` alone.

    Raises:
      ValueError: If a value does not fit in the bits given for it.
    """
    shipped = {name: _check(name, *pair) for name, pair in weights.items()}
    rest = [*scales.values(), *others.values()]
    rest_bytes = sum(array.nbytes for array in rest)
    counts = _weight_columns(shipped)
    num_weights = sum(array.values.size for array in shipped.values())
    if num_float_parameters is None:
        num_float_parameters = num_weights + sum(x.size for x in others.values())
    return {
        "file": int(file_bytes),
        **{column: count + rest_bytes for column, count in counts.items()},
        "zlib": _zlib_bytes(shipped, rest),
        "float": 4 * num_float_parameters,
        "weights_dense": counts["dense"],
        "weights_bitmask": counts["bitmask"],
        "weights_float": 4 * num_weights,
    }


def weights_only_ratio(sizes: Mapping[str, float], column: str) -> float:
    """Weight bytes in `column` (dense or bitmask) over the float32 weight bytes."""
    if f"weights_{column}" not in sizes:
        raise ValueError(
            f"weights_only_ratio: no weight bytes for {column!r}. "
            'Use "dense" or "bitmask".'
        )
    return sizes[f"weights_{column}"] / sizes["weights_float"]


def dense_bytes(values: Shaped[np.ndarray, "..."], bits: int) -> int:
    """`n * bits / 8`, rounded up."""
    return math.ceil(values.size * bits / 8)


def bitmask_bytes(values: Shaped[np.ndarray, "..."], bits: int) -> int:
    """`nnz * bits / 8 + n / 8`, rounded up."""
    return math.ceil((np.count_nonzero(values) * bits + values.size) / 8)


def index_bytes(values: Shaped[np.ndarray, "..."], bits: int) -> int:
    """`(nnz + fillers) * (bits + gap_bits) / 8`, rounded up.

    Each kept value carries the number of zeros before it in `gap_bits` bits. A run
    of zeros too long for that needs a filler, a stored zero, for every
    `2**gap_bits` of its zeros; zeros at the end need none. `gap_bits` is the one in
    0 to 16 that makes this array smallest; 0 bits is a dense array.
    """
    kept = np.flatnonzero(values)
    zeros_before = np.diff(kept, prepend=-1) - 1
    return min(
        _index_bytes_at(zeros_before, bits, gap_bits)
        for gap_bits in range(_MAX_GAP_BITS + 1)
    )


def entropy_bytes(values: Shaped[np.ndarray, "..."], bits: int) -> int:
    """Order-0 entropy of one array, without its code table, rounded up.

    Floats are almost all different, so their entropy says nothing: for them it is
    the entropy of the mask plus the non-zero floats in full.
    """
    if _is_integer(values):
        total = values.size * _entropy(np.unique(values, return_counts=True)[1])
    else:
        num_kept = int(np.count_nonzero(values))
        mask = np.asarray([num_kept, values.size - num_kept])
        total = values.size * _entropy(mask) + num_kept * bits
    return min(math.ceil(total / 8), dense_bytes(values, bits))


def _weight_columns(shipped: Mapping[str, Shipped]) -> dict[str, int]:
    columns = {
        "dense": dense_bytes,
        "bitmask": bitmask_bytes,
        "index": index_bytes,
        "entropy": entropy_bytes,
    }
    return {
        column: sum(count(*array) for array in shipped.values())
        for column, count in columns.items()
    }


def _check(name: str, values: np.ndarray, bits: int) -> Shipped:
    values = np.asarray(values)
    if values.dtype.name in _UNPACKED:
        values = values.astype(_UNPACKED[values.dtype.name])
    if not _is_integer(values):
        if bits != values.dtype.itemsize * 8:
            raise ValueError(
                f"size_accounting {name!r}: {values.dtype} values cannot be stored in "
                f"{bits} bits. Pass the integers that are shipped, or "
                f"bits={values.dtype.itemsize * 8}."
            )
    elif values.size and not _fits(values, bits):
        raise ValueError(
            f"size_accounting {name!r}: values {values.min()} to {values.max()} do not "
            f"fit in {bits} bits. Pass the width that is shipped."
        )
    return Shipped(values, bits)


def _fits(values: np.ndarray, bits: int) -> bool:
    if bits > values.dtype.itemsize * 8:
        return False
    signed = values.dtype.kind == "i"
    low, high = (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    )
    return low <= int(values.min()) and int(values.max()) <= high


def _is_integer(values: np.ndarray) -> bool:
    return values.dtype.kind in "iu"


def _index_bytes_at(
    zeros_before: Int[np.ndarray, " kept"], bits: int, gap_bits: int
) -> int:
    num_fillers = int(np.sum(zeros_before >> gap_bits))
    return math.ceil((zeros_before.size + num_fillers) * (bits + gap_bits) / 8)


def _entropy(counts: Int[np.ndarray, " symbols"]) -> float:
    """Bits per symbol of a source with these counts."""
    present = counts[counts > 0]
    if present.size < 2:
        return 0.0
    share = present / present.sum()
    return float(-np.sum(share * np.log2(share)))


def _zlib_bytes(shipped: Mapping[str, Shipped], rest: list[np.ndarray]) -> int:
    parts = [_packed(*array) for array in shipped.values()]
    parts += [array.tobytes() for array in rest]
    return len(zlib.compress(b"".join(parts), level=9))


def _packed(values: np.ndarray, bits: int) -> bytes:
    """The low `bits` bits of every value, one after the other."""
    if bits == values.dtype.itemsize * 8:
        return values.tobytes()
    little = values.astype(values.dtype.newbyteorder("<"), copy=False).reshape(-1, 1)
    unpacked = np.unpackbits(
        np.ascontiguousarray(little).view(np.uint8), axis=1, bitorder="little"
    )
    return np.packbits(unpacked[:, :bits], bitorder="little").tobytes()
