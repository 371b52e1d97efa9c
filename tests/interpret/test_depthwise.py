"""Depthwise convolutions as shifted sums, against JAX's own convolution."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compress.interpret import contract, trace

# (window of the convolution, shape of the input, shape of the kernel)
CASES = {
    "3x3": ({}, (2, 6, 5, 4), (3, 3, 1, 4)),
    "strides": ({"window_strides": (2, 1)}, (2, 7, 5, 4), (3, 2, 1, 4)),
    "valid": ({"padding": "VALID"}, (1, 6, 6, 3), (2, 3, 1, 3)),
    "dilated": ({"rhs_dilation": (2, 1)}, (2, 8, 5, 3), (3, 3, 1, 3)),
    "transposed": (
        {"lhs_dilation": (2, 2), "padding": ((1, 2), (2, 1))},
        (2, 4, 3, 3),
        (3, 3, 1, 3),
    ),
    "two per channel": ({}, (2, 5, 5, 3), (3, 3, 1, 6)),
    "channels first": (
        {"dimension_numbers": ("NCHW", "OIHW", "NCHW")},
        (2, 4, 6, 5),
        (4, 1, 3, 3),
    ),
    "one axis": (
        {"window_strides": (1,), "dimension_numbers": ("NHC", "HIO", "NHC")},
        (2, 12, 4),
        (7, 1, 4),
    ),
}


def case(name: str) -> tuple[Any, Any, Any, Any]:
    """The convolution, its form here, an input and a kernel."""
    settings, *shapes = CASES[name]
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes)
    settings = {"window_strides": (1, 1), "padding": "SAME", **settings}
    settings = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), **settings}
    groups = x.shape[settings["dimension_numbers"][0].index("C")]

    def convolution(x: Any, kernel: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x, kernel, feature_group_count=groups, **settings
        )

    (equation,) = trace(convolution, x, kernel).jaxpr.eqns
    return (
        convolution,
        lambda *operands: contract(equation, operands, shifted=True),
        x,
        kernel,
    )


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_convolution(name: str) -> None:
    convolution, ours, x, kernel = case(name)
    outs, pulls = zip(*(jax.vjp(f, x, kernel) for f in (convolution, ours)))
    np.testing.assert_allclose(*outs, rtol=1e-5, atol=1e-5)  # sums in another order
    weights = jnp.cos(jnp.arange(outs[0].size, dtype=jnp.float32))
    gradients = [pull(weights.reshape(outs[0].shape)) for pull in pulls]
    for expected, found in zip(*gradients):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_no_convolution_is_left_forwards_or_backwards() -> None:
    convolution, ours, x, kernel = case("3x3")

    def gradient(function: Any) -> str:
        loss = lambda x, kernel: jnp.sum(function(x, kernel) ** 2)  # noqa: E731
        return jax.jit(jax.grad(loss, (0, 1))).lower(x, kernel).as_text()

    assert "stablehlo.convolution" in gradient(convolution)
    assert "stablehlo.convolution" not in gradient(ours)


def test_many_kernels_at_once_are_each_as_alone() -> None:
    _, ours, x, kernel = case("strides")
    kernels = jnp.stack([kernel, 2 * kernel, kernel**2])
    gradient = jax.grad(lambda kernel: jnp.sum(jnp.sin(ours(x, kernel))))
    together = jax.vmap(gradient)(kernels)
    for each, alone in zip(together, map(gradient, kernels)):
        np.testing.assert_allclose(each, alone, rtol=1e-5, atol=1e-5)


def test_other_dtypes_stay_with_the_convolution() -> None:
    convolution, _, x, kernel = case("3x3")
    operands = [a.astype(jnp.bfloat16) for a in (x, kernel)]
    (equation,) = trace(convolution, *operands).jaxpr.eqns
    out = contract(equation, operands, shifted=True)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, convolution(*operands))
