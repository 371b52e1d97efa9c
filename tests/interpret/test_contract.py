"""A contraction of quantized operands, against float64 NumPy."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.export.lower.rules import plain
from compress.interpret import Quantized, contract, trace

BOXED = st.sampled_from([(True, True), (True, False), (False, True)])


def random_operand(rng: Any, shape: Any, boxed: bool, shared: Any) -> tuple[Any, Any]:
    """An operand, and the float64 values it stands for."""
    if not boxed:
        x = rng.standard_normal(shape).astype(np.float32)
        return jnp.asarray(x), x.astype(np.float64)
    sizes = [1 if one else size for one, size in zip(shared, shape)]
    qvalue = rng.integers(-127, 128, shape).astype(np.float32)
    scale = rng.uniform(0.5, 2.0, sizes).astype(np.float32)
    box = Quantized(jnp.asarray(qvalue), jnp.asarray(scale))
    return box, qvalue.astype(np.float64) * scale.astype(np.float64)


def contracted(function: Any, operands: Any, values: Any) -> Any:
    traced = [jax.ShapeDtypeStruct(v.shape, jnp.float32) for v in values]
    (equation,) = trace(function, *traced).jaxpr.eqns
    return contract(equation, operands)


def assert_close(out: Any, expected: Any, magnitude: Any, exact: bool) -> None:
    """With two boxes the sum of integers is exact, and only the scales round."""
    # Three float32 products; or float32 products and sums of up to 30 terms.
    ulps = 4 if exact else 64
    bound = ulps * 2.0**-24 * (np.abs(expected) if exact else magnitude)
    assert (np.abs(np.asarray(out, np.float64) - expected) <= bound).all()


@given(st.data(), BOXED)
def test_dot_general_of_any_dimension_numbers(data: Any, boxed: Any) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    sizes = st.lists(st.integers(1, 3), max_size=2)
    batch, summed = data.draw(sizes), data.draw(sizes)
    letters = iter("abcdefghijkl")
    name = lambda sizes: [(next(letters), n) for n in sizes]  # noqa: E731
    batch, summed = name(batch), name(summed)
    others = [name(data.draw(sizes)) for _ in range(2)]
    sides = [data.draw(st.permutations([*batch, *summed, *o])) for o in others]
    axes = [[[s.index(a) for a in group] for group in (summed, batch)] for s in sides]
    numbers = (
        (tuple(axes[0][0]), tuple(axes[1][0])),
        (tuple(axes[0][1]), tuple(axes[1][1])),
    )
    operands = []
    for side, is_box in zip(sides, boxed):
        shared = [axis in summed or data.draw(st.booleans()) for axis in side]
        operands.append(random_operand(rng, [n for _, n in side], is_box, shared))
    boxes, values = zip(*operands)
    out = contracted(lambda x, y: jax.lax.dot_general(x, y, numbers), boxes, values)
    spell = lambda axes: "".join(letter for letter, _ in axes)  # noqa: E731
    kept = [[a for a in side if a in own] for side, own in zip(sides, others)]
    result = spell([*batch, *kept[0], *kept[1]])
    subscripts = f"{spell(sides[0])},{spell(sides[1])}->{result}"
    expected = np.einsum(subscripts, *values)
    magnitude = np.einsum(subscripts, *map(np.abs, values))
    assert_close(out, expected, magnitude, exact=all(boxed))


def convolve(
    x: Any, w: Any, *, strides: Any, pads: Any, spread: Any, holes: Any, groups: int
) -> Any:
    """Float64 convolution of `x` (N, C, H, W) with `w` (O, C / groups, H, W)."""

    def dilate(a: Any, factors: Any) -> Any:
        shape = [(n - 1) * f + 1 for n, f in zip(a.shape[2:], factors)]
        out = np.zeros([*a.shape[:2], *shape])
        out[:, :, :: factors[0], :: factors[1]] = a
        return out

    x = np.pad(dilate(x, spread), [(0, 0), (0, 0), *pads])
    w = dilate(w, holes)
    rows, columns = w.shape[2:]
    size = [(n - k) // s + 1 for n, k, s in zip(x.shape[2:], (rows, columns), strides)]
    out = np.zeros([x.shape[0], w.shape[0], *size])
    per_group = w.shape[0] // groups
    for i, j in itertools.product(range(size[0]), range(size[1])):
        window = x[:, :, i * strides[0] :, j * strides[1] :][:, :, :rows, :columns]
        for feature in range(w.shape[0]):
            first = feature // per_group * w.shape[1]
            channels = window[:, first : first + w.shape[1]]
            out[:, feature, i, j] = (channels * w[feature]).sum(axis=(1, 2, 3))
    return out


@given(st.data(), BOXED)
def test_convolutions_of_any_layout(data: Any, boxed: Any) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    pair = lambda low, high: st.tuples(*[st.integers(low, high)] * 2)  # noqa: E731
    groups = data.draw(st.integers(1, 2))
    options = {
        "strides": data.draw(pair(1, 2)),
        "pads": [data.draw(pair(0, 2)), data.draw(pair(0, 2))],
        "spread": data.draw(pair(1, 2)),
        "holes": data.draw(pair(1, 2)),
    }
    shapes = [(2, 2 * groups, 5, 6), (2 * groups, 2, 2, 3)]
    share_rows, share_features = data.draw(st.booleans()), data.draw(st.booleans())
    shared = [(share_rows, True, True, True), (share_features, True, True, True)]
    operands = [random_operand(rng, *each) for each in zip(shapes, boxed, shared)]
    layouts = [data.draw(st.permutations(range(4))) for _ in range(3)]

    def laid_out(value: Any, layout: Any) -> Any:
        return jax.tree.map(lambda a: a.transpose(layout), value)

    boxes = [laid_out(box, o) for (box, _), o in zip(operands, layouts)]
    values = [value for _, value in operands]
    # Where each of N, C, H, W (or O, I, H, W) has gone.
    places = [tuple(layout.index(axis) for axis in range(4)) for layout in layouts]
    numbers = jax.lax.ConvDimensionNumbers(*places)

    def function(x: Any, w: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x,
            w,
            options["strides"],
            options["pads"],
            lhs_dilation=options["spread"],
            rhs_dilation=options["holes"],
            dimension_numbers=numbers,
            feature_group_count=groups,
        )

    out = contracted(function, boxes, [v.transpose(o) for v, o in zip(values, layouts)])
    out = np.transpose(out, np.argsort(layouts[2]))
    expected = convolve(*values, **options, groups=groups)
    magnitude = convolve(*map(np.abs, values), **options, groups=groups)
    assert_close(out, expected, magnitude, exact=all(boxed))


def ragged(x: Any, w: Any, sizes: Any) -> Any:
    """Float64: rows of `x` by groups, each with its weights; rows beyond are zero."""
    out = np.zeros((x.shape[0], w.shape[2]))
    ends = np.cumsum(sizes)
    for group, (end, size) in enumerate(zip(ends, sizes)):
        out[end - size : end] = x[end - size : end] @ w[group]
    return out


@given(st.data(), BOXED)
def test_ragged_products_with_scales_of_their_own(data: Any, boxed: Any) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    sizes = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    # Rows may be left over, and groups may be empty.
    rows = max(1, sum(sizes) + data.draw(st.integers(0, 2)))
    shapes = [(rows, 3), (len(sizes), 3, 2)]
    share_rows, share_groups, share_columns = (data.draw(st.booleans()) for _ in "xgc")
    shared = [(share_rows, True), (share_groups, True, share_columns)]
    operands = [random_operand(rng, *each) for each in zip(shapes, boxed, shared)]
    boxes, values = zip(*operands)
    counts = np.asarray(sizes, np.int32)
    traced = [jax.ShapeDtypeStruct(v.shape, jnp.float32) for v in values]
    (equation,) = trace(jax.lax.ragged_dot, *traced, counts).jaxpr.eqns
    out = contract(equation, [*boxes, jnp.asarray(counts)])
    magnitude = ragged(*map(np.abs, values), sizes)
    assert_close(out, ragged(*values, sizes), magnitude, exact=all(boxed))
    if all(boxed):
        served = contract(equation, [*boxes, jnp.asarray(counts)], plain)
        np.testing.assert_array_equal(out, served)


def test_integers_are_summed_as_int32_would() -> None:
    # 1040 * 127 * 127 < 2**24: the longest sum that float32 holds whatever the signs.
    rng = np.random.default_rng(0)
    x = np.full((2, 1040), 127.0, np.float32)
    x[1] = rng.integers(-127, 128, 1040)
    w = np.full((1040, 3), 127.0, np.float32)
    w[:, 1:] = rng.integers(-127, 128, (1040, 2))
    one = jnp.ones((1, 1))
    boxes = [Quantized(jnp.asarray(x), one), Quantized(jnp.asarray(w), one)]
    out = contracted(jnp.matmul, boxes, (x, w))
    exact = x.astype(np.int32) @ w.astype(np.int32)
    np.testing.assert_array_equal(np.asarray(out).astype(np.int32), exact)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_the_result_has_the_dtype_it_was_traced_with(dtype: Any) -> None:
    x = jnp.ones((2, 3), dtype)
    box = Quantized(jnp.ones((3, 4), jnp.int8), jnp.full((1, 4), 0.5), dtype)
    (equation,) = trace(jnp.matmul, x, box.dequantize()).jaxpr.eqns
    out = contract(equation, [x, box])
    assert out.dtype == dtype
    np.testing.assert_array_equal(out.astype(jnp.float32), np.full((2, 4), 1.5))


def test_without_boxes_the_equation_is_computed_as_it_was_traced(key: Any) -> None:
    x, w = jax.random.normal(key, (2, 3, 3))
    (equation,) = trace(jnp.matmul, x, w).jaxpr.eqns
    np.testing.assert_array_equal(contract(equation, [x, w]), x @ w)
