"""A ramp rises from one value to another and is exact at its ends."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress import ramp

fractions = st.floats(0.0, 1.0)
ramps = st.builds(
    lambda a, b, begin, length, power: ramp(
        min(a, b), max(a, b), steps=(begin, begin + length), power=power
    ),
    fractions,
    fractions,
    st.integers(0, 50),
    st.integers(0, 50),
    st.sampled_from([0.5, 1.0, 2.0, 3.0]),
)
STEPS = jnp.arange(120)


@given(ramps)
def test_a_ramp_is_exact_at_its_ends_and_outside(r: Any) -> None:
    values = np.asarray(r(STEPS))
    assert (values[r.end :] == np.float32(r.final)).all()
    before = values[: min(r.begin + 1, r.end)]
    # initial = final + (initial - final), in float32.
    np.testing.assert_allclose(before, r.initial, rtol=0, atol=2.0**-23)


@given(ramps)
def test_a_ramp_never_falls(r: Any) -> None:
    # Two float32 roundings of numbers below 1.
    assert (np.diff(np.asarray(r(STEPS))) >= -(2.0**-23)).all()


@given(ramps)
def test_a_ramp_follows_its_equation(r: Any) -> None:
    past = np.clip((np.arange(120) - r.begin) / max(r.end - r.begin, 1), 0.0, 1.0)
    expected = r.final + (r.initial - r.final) * (1.0 - past) ** r.power
    expected = np.where(np.arange(120) >= r.end, r.final, expected)
    # Power 1/2 magnifies the rounding of 1 - past near the end of the ramp.
    np.testing.assert_allclose(r(STEPS), expected, rtol=0, atol=1e-6)


@given(ramps, st.integers(1, 10**9))
def test_counts_are_exact_at_the_ends_and_between_them(r: Any, total: int) -> None:
    counts = np.asarray(r.whole(STEPS, total))
    first, last = round(r.initial * total), round(r.final * total)
    assert (counts[r.end :] == last).all()
    assert (counts[: min(r.begin + 1, r.end)] == first).all()
    assert (counts >= first).all()
    assert (counts <= last).all()


@given(ramps)
def test_a_ramp_is_the_same_in_jit(r: Any) -> None:
    np.testing.assert_allclose(
        jax.jit(lambda step: r(step))(STEPS), r(STEPS), rtol=0, atol=2.0**-23
    )


def test_a_ramp_without_length_is_a_jump() -> None:
    values = ramp(0.25, 0.75, steps=(3, 3))(jnp.arange(6))
    np.testing.assert_array_equal(values, [0.25, 0.25, 0.25, 0.75, 0.75, 0.75])


def test_a_ramp_takes_a_plain_step_too() -> None:
    assert ramp(0, 1, steps=(0, 4), power=1)(1) == 0.25
    assert ramp(0, 1, steps=(0, 4), power=1).whole(1, 100) == 25


@pytest.mark.parametrize(
    ("steps", "power", "message"),
    [
        ((5, 4), 3.0, "must be 0 <= begin <= end"),
        ((-1, 4), 3.0, "must be 0 <= begin <= end"),
        ((0, 4), 0.0, "power=0.0 must be positive"),
    ],
)
def test_bad_settings_are_refused(steps: Any, power: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ramp(0.0, 0.5, steps=steps, power=power)


def test_a_count_of_many_weights_does_not_pass_its_end_by_rounding() -> None:
    # float32(0.6) * 1e8 is 60000004, more than the end of the ramp prunes.
    r = ramp(0.0, 0.6, steps=(0, 10_000))
    assert r.whole(9_999, 10**8) <= r.whole(10_000, 10**8) == 60_000_000
