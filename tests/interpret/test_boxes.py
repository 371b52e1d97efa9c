"""A box that only moves stands for the moved values, with any of its axes shared."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.interpret import Quantized, evaluate, trace
from compress.interpret.boxes import pass_through, reshape_blocks, unshare
from compress.interpret.program import is_literal

# Each example compiles for shapes of its own.


def make_box(data: st.DataObject, shape: Any) -> Quantized:
    """Random integers and power-of-two scales: every product is exact."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    shared = data.draw(st.tuples(*[st.booleans() for _ in shape]))
    sizes = [1 if one else size for one, size in zip(shared, shape)]
    qvalue = rng.integers(-127, 128, shape).astype(np.int8)
    scale = np.exp2(rng.integers(-6, 6, sizes)).astype(np.float32)
    return Quantized(jnp.asarray(qvalue), jnp.asarray(scale))


def moved(function: Any, box: Quantized) -> Any:
    """The box that comes out of `function`, which may open it nowhere."""
    program = trace(function, box.dequantize())
    environment = dict(zip(program.jaxpr.constvars, program.consts))
    environment[program.jaxpr.invars[0]] = box
    for equation in program.jaxpr.eqns:
        operands = [a.val if is_literal(a) else environment[a] for a in equation.invars]
        boxes = pass_through(equation, operands)
        assert boxes is not None, f"opened by {equation.primitive}"
        environment.update(zip(equation.outvars, boxes, strict=True))
    outputs = [environment[out] for out in program.jaxpr.outvars]
    return jax.tree.unflatten(program.out_tree, outputs)


def assert_moves(function: Any, box: Quantized) -> Quantized:
    out = moved(function, box)
    expected = function(box.dequantize())
    assert out.qvalue.shape == expected.shape
    assert out.scale.ndim == expected.ndim
    np.testing.assert_array_equal(out.dequantize(), expected)
    assert out.dequantize().dtype == expected.dtype
    return out


small = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


@given(st.data(), small)
def test_a_box_is_transposed(data: Any, shape: Any) -> None:
    axes = tuple(data.draw(st.permutations(range(len(shape)))))
    assert_moves(lambda x: jax.lax.transpose(x, axes), make_box(data, shape))


@given(st.data(), small)
def test_a_box_is_sliced(data: Any, shape: Any) -> None:
    starts = [data.draw(st.integers(0, n - 1)) for n in shape]
    stops = [data.draw(st.integers(a + 1, n)) for a, n in zip(starts, shape)]
    strides = [data.draw(st.integers(1, 2)) for _ in shape]
    slice_ = lambda x: jax.lax.slice(x, starts, stops, strides)  # noqa: E731
    assert_moves(slice_, make_box(data, shape))


@given(st.data(), small)
def test_a_box_is_sliced_at_places_known_at_run_time(data: Any, shape: Any) -> None:
    # Beyond the end too: XLA clamps the start, to the same place for both parts.
    starts = [jnp.int32(data.draw(st.integers(0, n))) for n in shape]
    sizes = [data.draw(st.integers(1, n)) for n in shape]
    box = make_box(data, shape)
    program = trace(
        lambda x, *starts: jax.lax.dynamic_slice(x, starts, sizes),
        box.dequantize(),
        *starts,
    )
    (equation,) = (e for e in program.jaxpr.eqns if "slice" in e.primitive.name)
    boxes = pass_through(equation, [box, *starts])
    assert boxes is not None
    (out,) = boxes
    expected = jax.lax.dynamic_slice(box.dequantize(), starts, sizes)
    np.testing.assert_array_equal(out.dequantize(), expected)


@given(st.data(), small)
def test_a_box_is_broadcast(data: Any, shape: Any) -> None:
    rank = len(shape) + data.draw(st.integers(0, 2))
    targets = sorted(data.draw(st.permutations(range(rank)))[: len(shape)])
    sizes = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    for axis, target in enumerate(targets):
        sizes[target] = shape[axis] if shape[axis] > 1 else sizes[target]
    broadcast = lambda x: jax.lax.broadcast_in_dim(x, sizes, targets)  # noqa: E731
    assert_moves(broadcast, make_box(data, shape))


@given(st.data(), small)
def test_a_box_is_squeezed_and_reversed(data: Any, shape: Any) -> None:
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    flip = jax.lax.rev
    reverse = lambda x: flip(x, [0, len(shape) - 1][: len(shape)])  # noqa: E731
    if len(shape) > 1:
        assert_moves(reverse, make_box(data, shape))
    if ones:
        assert_moves(lambda x: jax.lax.squeeze(x, ones), make_box(data, shape))


@st.composite
def two_shapes(draw: Any) -> Any:
    """Two shapes of equal size: factors merged, split, and moved past one another."""
    factors = draw(st.lists(st.sampled_from([1, 2, 2, 3]), min_size=1, max_size=4))

    def grouped(factors: Any) -> tuple[int, ...]:
        shape = [1]
        for factor in factors:
            shape = (
                [*shape, factor]
                if draw(st.booleans())
                else [*shape[:-1], shape[-1] * factor]
            )
        return tuple(shape)

    other = draw(st.permutations(factors)) if draw(st.booleans()) else factors
    return grouped(factors), grouped(other)


@given(st.data(), two_shapes())
def test_a_box_is_reshaped(data: Any, shapes: Any) -> None:
    old, new = shapes
    assert_moves(lambda x: jax.lax.reshape(x, new), make_box(data, old))


@given(st.data(), two_shapes())
def test_a_box_is_reshaped_in_another_order_of_its_axes(data: Any, shapes: Any) -> None:
    old, new = shapes
    order = tuple(data.draw(st.permutations(range(len(old)))))
    reshape = lambda x: jax.lax.reshape(x, new, dimensions=order)  # noqa: E731
    assert_moves(reshape, make_box(data, old))


@given(two_shapes())
def test_blocks_of_a_reshape_have_equal_sizes_and_cover_all_axes(shapes: Any) -> None:
    old, new = shapes
    blocks = reshape_blocks(old, new)
    assert [a for left, _ in blocks for a in left] == list(range(len(old)))
    assert [a for _, right in blocks for a in right] == list(range(len(new)))
    for left, right in blocks:
        assert math.prod(old[a] for a in left) == math.prod(new[a] for a in right)


def test_a_reshape_of_nothing_is_one_block() -> None:
    assert reshape_blocks((0,), (3, 0)) == [([0], [0, 1])]


def test_a_reshape_may_have_the_symbolic_batch_of_an_export():
    (batch,) = jax.export.symbolic_shape("batch")
    assert reshape_blocks([batch], (batch, 1)) == [([0], [0]), ([], [1])]
    assert reshape_blocks((batch, 12), (batch, 3, 4)) == [([0], [0]), ([1], [1, 2])]


def test_a_block_that_shares_its_scale_still_shares_it_after_a_reshape() -> None:
    box = Quantized(jnp.ones((4, 6), jnp.int8), jnp.ones((1, 6)))
    assert moved(lambda x: x.reshape(2, 2, 6), box).scale.shape == (1, 1, 6)
    assert moved(lambda x: x.reshape(4, 2, 3), box).scale.shape == (1, 2, 3)
    assert moved(lambda x: x.reshape(24), box).scale.shape == (24,)


@given(st.data(), small)
def test_a_box_is_split(data: Any, shape: Any) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    first = data.draw(st.integers(0, shape[axis]))
    sizes = [first, shape[axis] - first]
    split = lambda x: jax.lax.split(x, sizes, axis)  # noqa: E731
    box = make_box(data, shape)
    boxes, expected = moved(split, box), split(box.dequantize())
    for out, wanted in zip(boxes, expected, strict=True):
        np.testing.assert_array_equal(out.dequantize(), wanted)


@given(st.data(), small, st.sampled_from([-4.0, 0.5, 2.0]))
def test_a_box_times_a_scalar_keeps_its_integers(
    data: Any, shape: Any, factor: float
) -> None:
    box = make_box(data, shape)
    scaled = [lambda x: x * factor, lambda x: factor * x, lambda x: x / factor]
    for function in (*scaled, lambda x: -x, lambda x: -(x / factor) * 2):
        out = assert_moves(function, box)
        np.testing.assert_array_equal(out.qvalue, box.qvalue)


def test_a_box_is_cast_between_floats_and_keeps_its_integers() -> None:
    box = Quantized(jnp.asarray([[3, -5]], jnp.int8), jnp.asarray([[0.5, 2.0]]))
    out = assert_moves(lambda x: x.astype(jnp.bfloat16), box)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out.qvalue, box.qvalue)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.astype(jnp.int32).astype(jnp.float32),
        lambda x: x + 1.0,
        lambda x: 2.0 / x,
        lambda x: x / jnp.asarray([[2.0, 3.0]]),
        lambda x: x * x,
        lambda x: x * jnp.asarray([[2.0, 3.0]]),
        lambda x: jax.nn.relu(x),
        lambda x: x.sum(axis=1),
        lambda x: jnp.take(x, jnp.asarray([1]), axis=1),
    ],
    ids=[
        "to_int",
        "add",
        "over",
        "div_vector",
        "square",
        "mul_vector",
        "relu",
        "sum",
        "take",
    ],
)
def test_any_other_operation_sees_the_real_values(function: Any) -> None:
    # 0.3 * 5 is not whole: a cast to int must truncate the real value.
    box = Quantized(jnp.asarray([[3, 5]], jnp.int8), jnp.asarray([[0.3, 0.3]]))
    program = trace(function, box.dequantize())
    (out,), _ = evaluate(
        program, [box], names={}, handler=lambda *_: ([], None), given={}
    )
    # XLA may contract a product and a sum to one rounding.
    np.testing.assert_allclose(out, function(box.dequantize()), rtol=2e-7)


@pytest.mark.parametrize("shape", [(1, 1, 4), (3, 1, 1), (3, 2, 4)])
def test_scan_slices_a_box_even_if_its_layers_share_a_scale(shape: Any) -> None:
    rng = np.random.default_rng(0)
    qvalue = jnp.asarray(rng.integers(-9, 9, (3, 2, 4)).astype(np.int8))
    box = Quantized(
        qvalue, jnp.asarray(np.exp2(rng.integers(-3, 3, shape)), jnp.float32)
    )

    def function(w: Any) -> Any:
        return jax.lax.scan(lambda c, x: (c + x.sum(), x.T), jnp.float32(0.0), w)

    program = trace(function, box.dequantize())
    outputs, _ = evaluate(
        program, [box], names={}, handler=lambda *_: ([], None), given={}
    )
    expected = jax.tree.leaves(function(box.dequantize()))
    for out, wanted in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(out, wanted)


def test_a_scale_written_out_stands_for_the_same_values() -> None:
    box = Quantized(jnp.ones((3, 2), jnp.int8), jnp.asarray([[2.0, 4.0]]))
    out = unshare(box, axis=0)
    assert out.scale.shape == (3, 2)
    np.testing.assert_array_equal(out.dequantize(), box.dequantize())


def test_a_box_passes_through_every_control_flow() -> None:
    box = Quantized(jnp.asarray([[3, -5]], jnp.int8), jnp.asarray([[0.5]]))

    def function(w: Any) -> Any:
        w = jax.jit(lambda w: w.T)(w)
        w = jax.lax.cond(w.sum() > 0, lambda w: 2.0 * w, lambda w: w, w)
        w = jax.checkpoint(jnp.sin)(w)
        w = jax.lax.while_loop(lambda w: w.sum() < 9.0, lambda w: w + 2.0, w)
        return jax.lax.scan(lambda c, x: (c + x, x), w[0], w)[0]

    program = trace(function, box.dequantize())
    (out,), _ = evaluate(
        program, [box], names={}, handler=lambda *_: ([], None), given={}
    )
    # sin may differ by an ulp in another fusion.
    np.testing.assert_allclose(out, function(box.dequantize()), rtol=1e-6)
