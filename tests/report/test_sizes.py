"""Bytes of a model, column by column."""

import math
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from compress.report import size_accounting, sizes, weights_only_ratio

INT8_ARRAYS = hnp.arrays(
    np.int8,
    hnp.array_shapes(max_dims=3, max_side=12),
    elements=st.one_of(st.just(0), st.integers(-127, 127)),
)


def account(values, bits=8, **changes):
    arguments = {"scales": {}, "others": {}, "file_bytes": 0} | changes
    return size_accounting({"kernel": (values, bits)}, **arguments)


def pruned(num_weights, sparsity, rng_seed=0):
    rng = np.random.default_rng(rng_seed)
    values = rng.integers(1, 127, num_weights).astype(np.int8)
    values[rng.permutation(num_weights)[: round(sparsity * num_weights)]] = 0
    return values


@given(INT8_ARRAYS)
def test_dense_and_bitmask_are_their_formulas(values):
    counted = account(values)
    num_nonzero = int(np.count_nonzero(values))
    assert counted["dense"] == values.size
    assert counted["bitmask"] == math.ceil(num_nonzero + values.size / 8)


@given(INT8_ARRAYS)
def test_entropy_and_index_are_never_above_dense(values):
    counted = account(values)
    assert counted["entropy"] <= counted["dense"]
    assert counted["index"] <= counted["dense"]


@given(INT8_ARRAYS, st.integers(0, 16))
def test_index_bytes_are_those_of_a_code_that_can_be_decoded(values, gap_bits):
    entries = encode(values.ravel(), gap_bits)
    np.testing.assert_array_equal(decode(entries, values.size), values.ravel())
    assert sizes.index_bytes(values, 8) <= math.ceil(len(entries) * (8 + gap_bits) / 8)


@given(INT8_ARRAYS)
def test_index_bytes_are_reached_by_one_of_the_gap_widths(values):
    lengths = [
        math.ceil(len(encode(values.ravel(), gap_bits)) * (8 + gap_bits) / 8)
        for gap_bits in range(17)
    ]
    assert sizes.index_bytes(values, 8) == min(lengths)


def encode(values, gap_bits):
    """(zeros before, value) pairs, written the slow way from the description."""
    entries, zeros = [], 0
    for value in np.trim_zeros(values, "b"):
        if value != 0 or zeros == 2**gap_bits - 1:
            entries.append((zeros, value))
            zeros = 0
        else:
            zeros += 1
    return entries


def decode(entries, size):
    values = [x for zeros, value in entries for x in [0] * zeros + [value]]
    return np.array(values + [0] * (size - len(values)))


def test_entropy_of_a_uniform_source_is_its_bits():
    values = np.repeat(np.arange(-8, 8, dtype=np.int8), 100)
    assert account(values, 4)["entropy"] == 1600 * 4 // 8


def test_entropy_of_floats_is_the_mask_and_the_kept_values():
    values = np.zeros(1024, np.float32)
    values[:512] = np.random.default_rng(0).normal(size=512)
    assert account(values, 32)["entropy"] == 1024 // 8 + 512 * 4


def test_bitmask_of_resnet_8_at_80_percent_is_the_published_24_8_kilobytes():
    # comparison.md gives the sparsity in whole percent, so 80 stands for 79.5 to 80.5.
    most, least = (account(pruned(77_360, s))["bitmask"] for s in (0.795, 0.805))
    assert least <= 24.85e3
    assert most >= 24.75e3
    dense = account(pruned(77_360, 0.8))
    assert dense["float"] == 309_440


def test_everything_shipped_is_in_every_column():
    values = pruned(4096, 0.5)
    scales = {"scale": np.ones(16, np.float32)}
    others = {"bias": np.zeros(16, np.int32), "embedding": np.ones(100, np.float32)}
    alone = account(values)
    counted = account(values, scales=scales, others=others, file_bytes=5000)
    for column in ("dense", "bitmask", "index", "entropy"):
        assert counted[column] == alone[column] + 64 + 64 + 400
    assert counted["float"] == 4 * (4096 + 16 + 100)  # scales are not parameters
    assert counted["file"] == 5000


def test_zlib_is_that_of_the_bytes_shipped():
    values = pruned(4096, 0.5)
    scale = np.linspace(0, 1, 16, dtype=np.float32)
    counted = account(values, scales={"scale": scale})
    assert counted["zlib"] == len(zlib.compress(values.tobytes() + scale.tobytes(), 9))


def test_four_bit_values_are_packed_two_to_a_byte_before_zlib():
    values = np.random.default_rng(0).integers(-8, 8, 8192).astype(np.int8)
    counted = account(values, 4)
    assert counted["dense"] == 4096
    assert 4096 <= counted["zlib"] <= 4120  # random: only zlib's own header is added


def test_shrunk_model_is_compared_with_the_model_before_it_shrank():
    counted = account(pruned(1000, 0), num_float_parameters=4000)
    assert counted["float"] == 16_000
    assert counted["weights_float"] == 4000


def test_weights_only_ratio_leaves_the_rest_out():
    counted = account(pruned(8000, 0.75), others={"bias": np.ones(500, np.float32)})
    assert weights_only_ratio(counted, "dense") == 0.25
    assert weights_only_ratio(counted, "bitmask") == (2000 + 1000) / 32_000
    with pytest.raises(ValueError, match='Use "dense" or "bitmask"'):
        weights_only_ratio(counted, "zlib")


def test_empty_array_takes_no_bytes():
    counted = account(np.zeros((0, 3), np.int8))
    assert counted["dense"] == counted["index"] == counted["entropy"] == 0


def test_floats_with_the_bits_of_integers_are_an_error():
    with pytest.raises(ValueError, match="Pass the integers that are shipped"):
        account(np.ones(4, np.float32), 8)


def test_values_outside_their_bits_are_an_error():
    with pytest.raises(ValueError, match="Pass the width that is shipped"):
        account(np.array([9], np.int8), 4)
