"""Statistics of inputs: the right rows for each weight, however it gets to its site."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compress import find_sites
from compress.interpret import trace
from compress.prune.inputs import Refused, Rows, input_moments, refusal
from compress.sites import find_sites_in


def draw(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def rows_of(forward: Any, params: Any, *batches: Any, kind: str = "hessian") -> Any:
    data = [b if isinstance(b, tuple) else (b,) for b in batches]
    sites = find_sites(forward, params, *data[0]).weighted
    return input_moments(forward, params, sites, data, kind)


X = draw(7, 8, seed=1)
IMAGES = draw(2, 6, 6, 4, seed=2)


def conv(x: Any, w: Any, spec: Any = ("NHWC", "HWIO", "NHWC"), **kwargs: Any) -> Any:
    settings: Any = {"window_strides": (1, 1), "padding": "SAME", **kwargs}
    return jax.lax.conv_general_dilated(x, w, dimension_numbers=spec, **settings)


def scanned(w: Any, x: Any) -> Any:
    # Each layer gets the same input, so that the outputs tell the layers apart.
    return jax.lax.scan(lambda c, v: (c, x @ v), 0, w)[1]


# name: a function linear in its weight, the weight's shape, its input
LAYOUTS = {
    "plain": (lambda w, x: x @ w, (8, 5), X),
    "weight on the left": (lambda w, x: w @ x.T, (5, 8), X),
    "transposed": (lambda w, x: x @ w.T, (5, 8), X),
    "reshaped heads": (
        lambda w, x: jnp.einsum("bd,dhk->bhk", x, w),
        (8, 2, 3),
        X,
    ),
    "heads contracted": (
        lambda w, x: jnp.einsum("bhk,hkd->bd", x.reshape(7, 2, 4), w),
        (2, 4, 5),
        X,
    ),
    "scaled": (lambda w, x: x @ (-0.5 * w), (8, 5), X),
    "a slice": (lambda w, x: x @ w[:, 1:4], (8, 5), X),
    "fused": (lambda w, x: [x @ part for part in jnp.split(w, 2, axis=1)], (8, 6), X),
    "vmapped over experts": (
        lambda w, x: jax.vmap(jnp.dot)(x.reshape(7, 2, 4).swapaxes(0, 1), w),
        (2, 4, 5),
        X,
    ),
    "in a scan": (scanned, (3, 8, 5), X),
    "in a scan with remat": (jax.checkpoint(scanned), (3, 8, 5), X),
    "over time": (
        lambda w, x: jax.lax.scan(lambda c, v: (c, v @ w), 0, x)[1],
        (8, 5),
        X.reshape(7, 1, 8),
    ),
    "used twice": (lambda w, x: [x @ w, jnp.tanh(x) @ w], (8, 5), X),
    "batched by broadcasting": (
        lambda w, x: jnp.einsum(
            "gbd,gde->gbe", jnp.stack([x, 2 * x]), jnp.broadcast_to(w[None], (2, 8, 5))
        ),
        (8, 5),
        X,
    ),
    "convolution": (lambda w, x: conv(x, w), (3, 3, 4, 5), IMAGES),
    "strided and dilated": (
        lambda w, x: conv(
            x, w, window_strides=(2, 1), padding="VALID", rhs_dilation=(1, 2)
        ),
        (3, 2, 4, 5),
        IMAGES,
    ),
    "transposed convolution": (
        lambda w, x: conv(x, w, lhs_dilation=(2, 2), padding=((2, 1), (1, 2))),
        (3, 3, 4, 5),
        IMAGES,
    ),
    "grouped": (
        lambda w, x: conv(x, w, feature_group_count=2),
        (3, 3, 2, 6),
        IMAGES,
    ),
    "depthwise": (
        lambda w, x: conv(x, w, feature_group_count=4),
        (3, 3, 1, 4),
        IMAGES,
    ),
    "channels first": (
        lambda w, x: conv(x, w, ("NCHW", "OIHW", "NCHW")),
        (5, 6, 3, 3),
        IMAGES,
    ),
    "ragged experts": (
        lambda w, x: jax.lax.ragged_dot(x, w, jnp.asarray([3, 0, 2], jnp.int32)),
        (3, 8, 5),
        X,
    ),
    "in bfloat16": (
        lambda w, x: x @ w.astype(jnp.bfloat16).astype(jnp.float32),
        (8, 5),
        X,
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_moments_of_the_inputs_give_the_squares_of_the_outputs(name: str) -> None:
    forward, shape, x = LAYOUTS[name]
    # In bfloat16 exactly, so that the cast changes nothing.
    weight = jnp.round(draw(*shape) * 4) / 4
    rows = rows_of(forward, weight, x)
    for part in rows:
        assert isinstance(part, Rows)
    outputs = [np.asarray(y) for y in jax.tree.leaves(forward(weight, x))]
    total = sum(np.square(y, dtype=np.float64).sum() for y in outputs)
    flat = np.asarray(weight, np.float64).ravel()
    squares = [
        np.einsum("gij,gjk,gik->", w, part.moment, w)
        for part, w in ((part, flat[part.indices]) for part in rows)
    ]
    np.testing.assert_allclose(sum(squares), total, rtol=1e-4)  # float32 sums
    # One element alone: its own input, and no other, is in its place.
    for element in range(0, weight.size, max(1, weight.size // 5)):
        one = jnp.zeros(weight.size).at[element].set(1.0).reshape(shape)
        made = sum(
            np.square(y, dtype=np.float64).sum()
            for y in jax.tree.leaves(forward(one, x))
        )
        norm = sum(
            part.moment[g, j, j]
            for part in rows
            for g, _, j in np.argwhere(part.indices == element)
        )
        np.testing.assert_allclose(norm, made, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["plain", "in a scan", "grouped", "ragged experts"])
def test_the_norms_are_the_diagonal_of_the_hessian(name: str) -> None:
    forward, shape, x = LAYOUTS[name]
    (full,) = rows_of(forward, draw(*shape), x)
    (norms,) = rows_of(forward, draw(*shape), x, kind="norms")
    diagonal = np.diagonal(full.moment, axis1=1, axis2=2)
    np.testing.assert_allclose(norms.moment, diagonal, rtol=1e-5)
    np.testing.assert_array_equal(norms.indices, full.indices)


def test_columns_of_a_product_are_in_the_order_of_the_parameter() -> None:
    turned = lambda w, x: jnp.einsum("bkh,hkd->bd", x.reshape(7, 4, 2), w)  # noqa: E731
    (rows,) = rows_of(turned, draw(2, 4, 5), X)
    assert (np.diff(rows.indices, axis=-1) > 0).all()


def test_columns_of_a_convolution_are_channels_at_one_position_after_another() -> None:
    forward, shape, x = LAYOUTS["channels first"]
    (rows,) = rows_of(forward, draw(*shape), x)
    _, channels, *window = np.unravel_index(rows.indices[0, 0], shape)
    np.testing.assert_array_equal(channels, np.tile(np.arange(6), 9))
    np.testing.assert_array_equal(window[1][::6], np.tile(np.arange(3), 3))


def test_batches_add_up() -> None:
    forward = lambda w, x: x @ w  # noqa: E731
    (both,) = rows_of(forward, draw(8, 5), X, 2 * X)
    (one,) = rows_of(forward, draw(8, 5), X)
    np.testing.assert_allclose(both.moment, 5 * one.moment, rtol=1e-5)


def test_further_batches_are_not_traced_again() -> None:
    def times_traced(num_batches: int) -> int:
        traced: list[None] = []

        def forward(w: Any, x: Any) -> Any:
            traced.append(None)
            return x @ w

        rows_of(forward, draw(8, 5), *[X] * num_batches)
        return len(traced)

    assert times_traced(5) == times_traced(1)


def test_a_weight_and_its_transpose_have_no_common_inputs() -> None:
    (refused,) = rows_of(lambda w, x: jnp.tanh(x @ w) @ w.T, draw(8, 8), X)
    assert isinstance(refused, Refused)
    assert "share weights but not inputs" in refused.reason


def test_a_weight_that_meets_two_inputs_of_one_output_is_refused() -> None:
    doubled = lambda w, x: x @ jnp.broadcast_to(w[:, None], (4, 2, 5)).reshape(8, 5)  # noqa: E731
    (refused,) = rows_of(doubled, draw(4, 5), X)
    assert isinstance(refused, Refused)


def test_a_branch_that_is_not_taken_is_refused() -> None:
    def forward(w: Any, x: Any) -> Any:
        return jax.lax.cond(x[0, 0] > 100.0, lambda: x @ w, lambda: x[:, :5])

    (refused,) = rows_of(forward, draw(8, 5), X)
    assert "a branch that the first batch does not take" in refused.reason


def test_inputs_that_overflow_are_an_error() -> None:
    with pytest.raises(ValueError, match=r'"w".*not finite.*Look for the layer'):
        rows_of(lambda p, x: x @ p["w"], {"w": draw(8, 5)}, 1e30 * X)


def reasons(forward: Any, params: Any, x: Any) -> list[str | None]:
    program = trace(forward, params, x)
    return [refusal(program, s) for s in find_sites_in(program, params).weighted]


def test_what_cannot_be_observed_says_why() -> None:
    def loop(w: Any, x: Any) -> Any:
        return jax.lax.while_loop(lambda y: y[0, 0] < 3.0, lambda y: y @ w, x)

    assert reasons(loop, draw(8, 8), X) == [
        "inside a while loop, whose rounds cannot be collected"
    ]
    grouped = lambda w, x: conv(x, w, batch_group_count=2)  # noqa: E731
    assert reasons(grouped, draw(3, 3, 4, 6), IMAGES) == [
        "a convolution with groups of examples"
    ]
    whole = lambda w, x: x @ w  # noqa: E731
    integers = jnp.ones((8, 5), jnp.int32), jnp.ones((7, 8), jnp.int32)
    assert reasons(whole, *integers) == ["its weight is int32, not floating"]
    assert reasons(lambda w, x: x @ w, draw(8, 8), X) == [None]
