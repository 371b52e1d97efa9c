"""The arithmetic of symmetric quantization."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.quantize import (
    absmax_scale,
    largest_integer,
    quantize,
    round_through,
)
from compress.quantize.affine import absmax_over

finite = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False)
values = st.lists(finite, min_size=8, max_size=8).map(
    lambda x: jnp.asarray(x, jnp.float32)
)
widths = st.integers(2, 8)


def round_trip(x: Any, bits: int) -> tuple[Any, Any, Any]:
    scale = absmax_scale(absmax_over(x, (0,)), bits=bits)
    qvalue = quantize(x, scale, bits=bits)
    return qvalue, scale, qvalue * scale


@given(values, widths)
def test_the_error_inside_the_range_is_at_most_half_a_step(x: Any, bits: int) -> None:
    _, scale, real = round_trip(x, bits)
    error = np.abs(np.asarray(real, np.float64) - np.asarray(x, np.float64))
    # Half a step, and three float32 roundings of up to 127 steps.
    bound = np.float64(scale) * (0.5 + 3 * 127 * 2.0**-24)
    assert (error <= bound).all()


@given(values, widths)
def test_quantization_is_idempotent(x: Any, bits: int) -> None:
    qvalue, scale, real = round_trip(x, bits)
    np.testing.assert_array_equal(quantize(real, scale, bits=bits), qvalue)
    again, scale_again, _ = round_trip(real, bits)
    if np.float32(jnp.max(jnp.abs(x))) > 2.0**-100:
        np.testing.assert_array_equal(again, qvalue)
        # 127 * s / 127 rounds twice.
        np.testing.assert_allclose(scale_again, scale, rtol=2.0**-23)


@given(values, widths)
def test_integers_are_whole_and_reach_the_end_of_the_grid(x: Any, bits: int) -> None:
    qvalue, _, _ = round_trip(x, bits)
    limit = largest_integer(bits)
    np.testing.assert_array_equal(qvalue, np.round(qvalue))
    largest = np.abs(np.asarray(qvalue)).max()
    # A group of (almost) zeros has scale 1 and stays zero.
    assert largest in (0, limit)


@given(values)
def test_quantization_is_odd_so_its_zero_point_is_zero(x: Any) -> None:
    positive, scale, _ = round_trip(x, 8)
    np.testing.assert_array_equal(quantize(-x, scale, bits=8), -positive)


@pytest.mark.parametrize(
    "absmax", [0.0, 1e-45, 1e-40, 1.17e-38, 1e-37, 1e-36, 1.0, 3.4e38]
)
def test_the_scale_is_positive_and_its_reciprocal_finite(absmax: float) -> None:
    scale = absmax_scale(jnp.float32(absmax), bits=8)
    assert scale > 0
    assert jnp.isfinite(1.0 / scale)
    x = jnp.asarray([absmax, -absmax, 0.0], jnp.float32)
    assert jnp.isfinite(quantize(x, scale, bits=8) * scale).all()


def test_a_group_of_zeros_stays_exactly_zero() -> None:
    qvalue, scale, real = round_trip(jnp.zeros(8), 8)
    assert scale == 1.0
    assert (qvalue == 0).all()
    assert (real == 0).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_quantized_in_float32(dtype: Any) -> None:
    x = jnp.linspace(-3.0, 3.0, 101).astype(dtype)
    qvalue, scale, _ = round_trip(x, 8)
    assert qvalue.dtype == scale.dtype == jnp.float32
    expected, _, _ = round_trip(x.astype(jnp.float32), 8)
    np.testing.assert_array_equal(qvalue, expected)


def test_training_and_serving_compute_the_same_scale_and_integers() -> None:
    x = jax.random.normal(jax.random.key(0), (1000, 64))

    def both(x: Any) -> Any:
        scale = absmax_scale(absmax_over(x, (1,)), bits=8)
        return scale, quantize(x, scale, bits=8)

    for eager, compiled in zip(both(x), jax.jit(both)(x)):
        np.testing.assert_array_equal(eager, compiled)


def test_the_gradient_is_one_inside_the_range_and_zero_outside() -> None:
    x = jnp.asarray([-200.0, -127.6, -127.4, -3.3, 0.0, 0.5, 127.5, 127.6, 1e9])
    gradient = jax.grad(lambda x: round_through(x, 127).sum())(x)
    np.testing.assert_array_equal(gradient, [0, 0, 1, 1, 1, 1, 1, 0, 0])


def test_the_gradient_through_the_real_values_is_one() -> None:
    x = jnp.asarray([-1.0, 0.3, 5.0])
    scale = jnp.asarray([0.01])

    def real(x: Any) -> Any:
        return (quantize(x, scale, bits=8) * scale).sum()

    # s * (1 / s) rounds twice.
    np.testing.assert_allclose(jax.grad(real)(x), [1, 1, 0], rtol=2.0**-22)


@given(values)
def test_a_traced_width_is_a_known_one_but_for_a_rounding_of_the_scale(x: Any) -> None:
    def both(bits: Any) -> Any:
        qvalue, scale, _ = round_trip(x, bits)
        gradient = jax.grad(lambda x: quantize(x, scale, bits=bits).sum())(x)
        return qvalue, scale, gradient * scale

    several = jnp.arange(2, 9)
    traced = jax.jit(jax.vmap(both))(several)
    for index, bits in enumerate(several.tolist()):
        own = [x[index] for x in traced]
        known = jax.jit(both, static_argnums=0)(bits)
        # XLA multiplies by the reciprocal of a constant: one rounding more.
        np.testing.assert_allclose(own[1], known[1], rtol=2.0**-22)
        np.testing.assert_allclose(own[2], known[2], rtol=2.0**-21)
        # Which may decide a tie.
        assert np.abs(own[0] - known[0]).max() <= 1
        assert np.abs(own[0]).max() == np.abs(known[0]).max()


@given(widths)
def test_the_grid_is_symmetric(bits: int) -> None:
    assert largest_integer(bits) == 2 ** (bits - 1) - 1


@pytest.mark.parametrize("bits", [1, 9])
def test_a_width_out_of_range_is_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="must be 2 to 8"):
        largest_integer(bits)
