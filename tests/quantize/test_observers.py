"""Observers, against NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.quantize import Range
from compress.quantize.observers import empty_range, merge_ranges, observe_range

absmaxes = st.lists(
    st.floats(0.0, 100.0, width=32, allow_subnormal=False), min_size=1, max_size=6
)


def merged(seen: list[float], observer: str, decay: float = 0.9) -> Range:
    known = empty_range(())
    for absmax in seen:
        batch = Range(jnp.float32(absmax), jnp.int32(1))
        known = merge_ranges(known, batch, observer=observer, decay=decay)
    return known


@given(absmaxes)
def test_absmax_keeps_the_largest(seen: list[float]) -> None:
    known = merged(seen, "absmax")
    assert known.absmax == max(seen)
    assert known.count == len(seen)


@given(absmaxes, st.floats(0.1, 0.99))
def test_ema_averages_plainly_until_its_decay_allows_more(
    seen: list[float], decay: float
) -> None:
    average = 0.0
    for count, absmax in enumerate(seen):
        keep = min(decay, count / (count + 1))
        average = keep * average + (1 - keep) * absmax
    # Six averages of three float32 roundings each.
    known = merged(seen, "ema", decay)
    np.testing.assert_allclose(known.absmax, average, rtol=18 * 2.0**-24, atol=1e-37)


@given(absmaxes)
def test_the_order_of_batches_does_not_matter_to_absmax(seen: list[float]) -> None:
    assert merged(seen, "absmax") == merged(seen[::-1], "absmax")


@pytest.mark.parametrize("observer", ["ema", "absmax"])
def test_a_branch_not_taken_changes_nothing(observer: str) -> None:
    known = Range(jnp.asarray([2.0, 0.0]), jnp.asarray([3, 0], jnp.int32))
    nothing = Range(jnp.zeros(2), jnp.zeros(2, jnp.int32))
    out = merge_ranges(known, nothing, observer=observer, decay=0.9)
    np.testing.assert_array_equal(out.absmax, known.absmax)
    np.testing.assert_array_equal(out.count, known.count)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_range_of_a_batch_is_its_largest_magnitude(dtype: type) -> None:
    seen = observe_range(jnp.asarray([[1.0, -3.0], [2.0, 0.5]], dtype))
    assert seen.absmax == 3.0
    assert seen.absmax.dtype == jnp.float32
    assert seen.count == 1
