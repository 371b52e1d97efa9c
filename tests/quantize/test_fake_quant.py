"""Fake quantization: the integers of the forward pass, their scales, and when."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import compress
from compress import ContractError, chain, quantize
from compress.interpret import Quantized


def dense(params: Any, x: Any) -> Any:
    return x @ params["w"]


def forward(params: Any, x: Any) -> Any:
    return jnp.tanh(x @ params["a"]) @ params["b"]


@pytest.fixture
def model(key: jax.Array) -> tuple[Any, jax.Array]:
    a, b, x = jax.random.split(key, 3)
    params = {"a": jax.random.normal(a, (4, 8)), "b": jax.random.normal(b, (8, 3))}
    return params, jax.random.normal(x, (5, 4))


def applied(function: Any, params: Any, x: Any, **settings: Any) -> Any:
    transform = quantize.fake_quant(**settings)
    state = compress.init(function, transform, params, x)
    return jax.jit(compress.apply(function, transform))(params, state, x)


def scale_shape(function: Any, weight: Any, x: Any) -> tuple[int, ...]:
    """The shape of the scale that the only parameter `w` gets."""
    params = {"w": weight}
    transform = quantize.fake_quant(activations=None)
    state = compress.init(function, transform, params, x)
    box = compress.parameters(transform, params, state)["w"]
    # Whatever shares a scale, the values it stands for are near.
    np.testing.assert_allclose(
        box.dequantize(), weight, rtol=0, atol=float(box.scale.max()) * 0.51
    )
    return box.scale.shape


def oracle(x: np.ndarray, w: np.ndarray, axis: int | None) -> tuple[Any, Any]:
    """A quantized dense layer: the int32 sums, and float64 results."""
    x, w = np.float64(x), np.float64(w)
    scale_x = np.abs(x).max(axis=axis, keepdims=True) / 127
    scale_w = np.abs(w).max(axis=0, keepdims=True) / 127
    qx, qw = np.rint(x / scale_x), np.rint(w / scale_w)
    total = qx.astype(np.int32) @ qw.astype(np.int32)
    return total, total * (scale_x * scale_w)


# Against NumPy


@pytest.mark.parametrize(("activations", "axis"), [("int8", None), ("int8_dynamic", 1)])
def test_a_dense_layer_computes_what_int32_would(activations: str, axis: Any) -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((6, 300)) * [[1.0], [10], [100], [0.1], [1], [1]]).astype(
        np.float32
    )
    w = rng.standard_normal((300, 7)).astype(np.float32)
    total, expected = oracle(x, w, axis)
    params = {"w": jnp.asarray(w)}
    out = applied(dense, params, jnp.asarray(x), activations=activations)
    # Scales: one rounding each, their product and the result two more.
    np.testing.assert_allclose(out, expected, rtol=6 * 2.0**-24)
    transform = quantize.fake_quant(activations=activations)
    state = compress.init(dense, transform, params, jnp.asarray(x))
    box = compress.parameters(transform, params, state)["w"]
    shared = tuple(range(2)) if axis is None else (axis,)
    absmax = np.abs(x).max(axis=shared, keepdims=True)
    scale = quantize.absmax_scale(jnp.asarray(absmax), bits=8)
    qx = np.asarray(quantize.quantize(jnp.asarray(x), scale, bits=8), np.int32)
    integers = qx @ np.asarray(box.qvalue, np.int32)
    np.testing.assert_array_equal(integers, total)
    factor = jnp.ones((1, 1)) * scale * box.scale
    # Bit by bit: the carrier in floating point lost nothing.
    np.testing.assert_array_equal(out, integers.astype(np.float32) * factor)


def test_a_grid_over_bit_widths_is_one_program(model: Any) -> None:
    params, x = model
    state = compress.init(forward, quantize.fake_quant(), params, x)

    def loss(bits: Any) -> Any:
        transform = quantize.fake_quant(weights=bits)
        run = compress.apply(forward, transform)
        return jax.value_and_grad(lambda params: (run(params, state, x) ** 2).sum())(
            params
        )

    together = jax.jit(jax.vmap(loss))(jnp.asarray([4, 8]))
    for index, bits in enumerate(["int4", "int8"]):
        own = jax.tree.leaves(jax.jit(loss, static_argnums=0)(bits))
        for a, b in zip(jax.tree.leaves(together), own, strict=True):
            # Sums of products of several runs may go in another order.
            np.testing.assert_allclose(a[index], b, rtol=1e-5, atol=1e-5)


def test_weights_only_leaves_activations_alone() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 40)).astype(np.float32)
    w = rng.standard_normal((40, 3)).astype(np.float32)
    scale = np.abs(np.float64(w)).max(axis=0, keepdims=True) / 127
    expected = np.float64(x) @ (np.rint(w / scale) * scale)
    out = applied(dense, {"w": jnp.asarray(w)}, jnp.asarray(x), activations=None)
    # Float32 sums of 40 products of up to 4 * 127.
    np.testing.assert_allclose(out, expected, rtol=0, atol=40 * 2.0**-24 * 40)


def test_an_activation_beyond_its_range_is_clipped() -> None:
    params, x = {"w": jnp.eye(4)}, jnp.ones((1, 4))
    transform = quantize.fake_quant()
    state = compress.init(dense, transform, params, x)
    state = compress.calibrate(dense, transform, params, state, [x])
    out = compress.apply(dense, transform)(params, state, 5.0 * x)
    # (127 * s) * (127 * s) with s = 1/127 rounded.
    np.testing.assert_allclose(out, x, rtol=4 * 2.0**-24)


def test_a_convolution_is_quantized_by_its_output_feature(key: Any) -> None:
    w, x = jax.random.normal(key, (2, 4, 3, 3, 4))

    def conv(params: Any, x: Any) -> Any:
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, params["w"], (1, 1), "SAME", dimension_numbers=numbers
        )

    w = w[:3] * jnp.asarray([0.01, 1.0, 5.0, 100.0])[None, None, None]
    w = jnp.concatenate([w, w[:, :, :1]], axis=2)
    params = {"w": w}
    assert scale_shape(conv, w, x) == (1, 1, 1, 4)
    out = applied(conv, params, x, activations="int8_dynamic")
    exact = conv(params, x)
    error = jnp.abs(out - exact).max(axis=(0, 1, 2)) / jnp.abs(exact).max(
        axis=(0, 1, 2)
    )
    # Each feature on its own grid: a percent, be it small or large.
    assert (error < 0.02).all()


# Which axes share a scale


def test_channels_follow_the_use_of_the_weight(key: jax.Array) -> None:
    w = jax.random.normal(key, (6, 4))
    assert scale_shape(dense, w, jnp.ones((2, 6))) == (1, 4)
    assert scale_shape(lambda p, x: x @ p["w"].T, w, jnp.ones((2, 4))) == (6, 1)
    both = lambda p, x: x @ p["w"] @ p["w"].T  # noqa: E731
    assert scale_shape(both, w, jnp.ones((2, 6))) == (1, 1)


def test_scanned_layers_have_a_scale_each(key: jax.Array) -> None:
    w = jax.random.normal(key, (3, 4, 4))
    scanned = lambda p, x: jax.lax.scan(lambda h, w: (h @ w, None), x, p["w"])[0]  # noqa: E731
    assert scale_shape(scanned, w, jnp.ones((2, 4))) == (3, 1, 4)


def test_layers_that_another_site_sums_over_share_a_scale(key: jax.Array) -> None:
    w = jax.random.normal(key, (3, 3, 3))

    def function(p: Any, x: Any) -> Any:
        y, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["w"])
        return jnp.einsum("lio,bl->bio", p["w"], y)

    x = jnp.ones((2, 3))
    assert scale_shape(function, w, x) == (1, 1, 3)
    exact = function({"w": w}, x)
    out = applied(function, {"w": w}, x)
    # Three layers of 8 bits each.
    np.testing.assert_allclose(
        out, exact, rtol=0, atol=0.05 * float(jnp.abs(exact).max())
    )


def test_a_tied_embedding_is_looked_up_on_its_grid(key: jax.Array) -> None:
    table = jax.random.normal(key, (7, 4))
    tied = lambda p, i: jnp.take(p["w"], i, axis=0) @ p["w"].T  # noqa: E731
    ids = jnp.arange(3)
    assert scale_shape(tied, table, ids) == (7, 1)
    transform = quantize.fake_quant(activations=None)
    state = compress.init(tied, transform, {"w": table}, ids)
    real = compress.parameters(transform, {"w": table}, state)["w"].dequantize()
    out = applied(tied, {"w": table}, ids, activations=None)
    np.testing.assert_allclose(out, real[:3] @ real.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("order", ["C", "F"], ids=["rows first", "columns first"])
def test_a_reshaped_weight_keeps_its_channels(key: jax.Array, order: Any) -> None:
    w = (
        jax.random.normal(key, (4, 2, 6))
        * jnp.asarray([1, 2, 4, 8, 16, 32.0])[None, None]
    )
    function = lambda p, x: x @ jnp.reshape(p["w"], (8, 6), order=order)  # noqa: E731
    x = jnp.ones((3, 8))
    assert scale_shape(function, w, x) == (1, 1, 6)
    transform = quantize.fake_quant(activations=None)
    state = compress.init(function, transform, {"w": w}, x)
    real = compress.parameters(transform, {"w": w}, state)["w"].dequantize()
    out = applied(function, {"w": w}, x, activations=None)
    # Sums of 8 float32 terms in another order.
    np.testing.assert_allclose(out, function({"w": real}, x), rtol=1e-5, atol=1e-4)


def test_a_square_weight_reshaped_by_columns_keeps_its_scales_apart() -> None:
    w = jnp.asarray([[1.0, 2.0], [300.0, 400.0]])
    function = lambda p, x: x @ jax.lax.reshape(p["w"], (2, 2), dimensions=(1, 0))  # noqa: E731
    assert scale_shape(function, w, jnp.ones((1, 2))) == (2, 1)
    out = applied(function, {"w": w}, jnp.ones((1, 2)), activations=None)
    # Half a step of 2/127 and 400/127, each twice.
    np.testing.assert_allclose(out, [[3.0, 700.0]], rtol=0.01)


def test_fused_projections_are_quantized_as_if_they_were_apart(key: Any) -> None:
    w, x = jax.random.normal(key, (4, 12)), jnp.ones((2, 4))

    def fused(params: Any, x: Any) -> Any:
        return sum(x @ part for part in jnp.split(params["w"], 3, axis=1))

    def apart(params: Any, x: Any) -> Any:
        return sum(x @ params[n] for n in "qkv")

    parts = dict(zip("qkv", jnp.split(w, 3, axis=1)))
    one, two = applied(fused, {"w": w}, x), applied(apart, parts, x)
    np.testing.assert_array_equal(one, two)


# Gradients


def test_gradients_go_straight_through_to_weights_and_inputs(model: Any) -> None:
    params, x = model
    transform = quantize.fake_quant(activations="int8_dynamic")
    state = compress.init(dense, transform, {"w": params["a"]}, x)
    apply = compress.apply(dense, transform)
    loss = lambda p, x: apply(p, state, x).sum()  # noqa: E731
    at_weight, at_input = jax.grad(loss, argnums=(0, 1))({"w": params["a"]}, x)
    box = compress.parameters(transform, {"w": params["a"]}, state)["w"]
    scale = jnp.max(jnp.abs(x), axis=1, keepdims=True) / 127
    seen = jnp.round(x / scale) * scale
    # d(sum x w) / dw is the quantized x, as the forward pass multiplied it.
    wanted = jnp.broadcast_to(seen.sum(axis=0)[:, None], params["a"].shape)
    np.testing.assert_allclose(at_weight["w"], wanted, rtol=1e-5, atol=1e-5)
    wanted = jnp.broadcast_to(box.dequantize().sum(axis=1)[None], x.shape)
    np.testing.assert_allclose(at_input, wanted, rtol=1e-5, atol=1e-5)


# When


def trained(transform: Any, model: Any, steps: int) -> list[Any]:
    """Outputs, the state after and the float outputs, for `steps` moving batches."""
    params, x = model
    state = compress.init(forward, transform, params, x)

    @jax.jit
    def step(params: Any, state: Any, x: Any) -> Any:
        outputs, observed = compress.observe(forward, transform)(params, state, x)
        return outputs, compress.update(transform, state, params, None, observed)

    history = []
    for n in range(steps):
        batch = (1.0 + n) * x
        outputs, state = step(params, state, batch)
        history.append((outputs, state, jax.jit(forward)(params, batch)))
    assert step._cache_size() == 1  # one compilation for the whole schedule
    return history


def test_before_its_start_the_forward_is_the_float_one(model: Any) -> None:
    history = trained(quantize.fake_quant(steps=(3, None)), model, 6)
    for n, (outputs, _, exact) in enumerate(history):
        if n < 3:
            # The same float32 products, multiplied by scales of one.
            np.testing.assert_array_equal(outputs, exact)
        else:
            assert (outputs != exact).any()


def test_ranges_are_observed_before_the_start_and_frozen_after(model: Any) -> None:
    transform = quantize.fake_quant(steps=(1, 3), observer="absmax")
    history = trained(transform, model, 6)
    seen = [float(state.memory.ranges["a"].absmax) for _, state, _ in history]
    absmax = float(jnp.max(jnp.abs(model[1])))
    np.testing.assert_allclose(seen, absmax * np.asarray([1, 2, 3, 3, 3, 3]), rtol=2e-7)
    assert history[-1][1].memory.ranges["a"].count == 3


def test_the_average_moves_as_its_equation_says(model: Any) -> None:
    history = trained(quantize.fake_quant(decay=0.5), model, 3)
    absmax = float(jnp.max(jnp.abs(model[1])))
    seen = [float(state.memory.ranges["a"].absmax) for _, state, _ in history]
    # 1, (1 + 2) / 2, (1.5 + 3) / 2.
    np.testing.assert_allclose(seen, absmax * np.asarray([1, 1.5, 2.25]), rtol=3e-7)


def test_a_range_in_a_branch_counts_only_when_taken(model: Any) -> None:
    params, x = model

    def branching(params: Any, x: Any) -> Any:
        return jax.lax.cond(
            x.sum() > 0, lambda: x @ params["a"], lambda: (2.0 * x) @ params["c"]
        )

    params = {**params, "c": params["a"]}
    transform = quantize.fake_quant(observer="absmax")
    state = compress.init(branching, transform, params, x)
    batches = [jnp.ones((5, 4)), jnp.full((5, 4), -3.0), jnp.full((5, 4), 2.0)]
    ranges = compress.calibrate(
        branching, transform, params, state, batches
    ).memory.ranges
    assert (ranges["a"].absmax, ranges["a"].count) == (2.0, 2)
    assert (ranges["c"].absmax, ranges["c"].count) == (6.0, 1)


def test_scanned_layers_have_a_range_each(key: jax.Array) -> None:
    w = jnp.stack([2.0 * jnp.eye(4), 3.0 * jnp.eye(4), jnp.eye(4)])
    scanned = lambda p, x: jax.lax.scan(lambda h, w: (h @ w, None), x, p["w"])[0]  # noqa: E731
    x = jnp.ones((2, 4))
    transform = quantize.fake_quant()
    state = compress.init(scanned, transform, {"w": w}, x)
    state = compress.calibrate(scanned, transform, {"w": w}, state, [x])
    np.testing.assert_array_equal(state.memory.ranges["w"].absmax, [1, 2, 6])
    out = compress.apply(scanned, transform)({"w": w}, state, x)
    # Each layer rounds its scale once.
    np.testing.assert_allclose(out, 6.0 * x, rtol=1e-6)


def test_a_static_range_in_a_while_loop_is_refused_with_the_remedy(model: Any) -> None:
    looping = lambda p, x: jax.lax.while_loop(  # noqa: E731
        lambda h: h.sum() < 9.0, lambda h: h @ p["w"], x
    )
    params, x = {"w": 2.0 * jnp.eye(4)}, jnp.ones((1, 4))
    with pytest.raises(NotImplementedError, match=r'observe "w".*dynamic activations'):
        applied(looping, params, x)
    np.testing.assert_allclose(
        applied(looping, params, x, activations="int8_dynamic"), 4.0 * x, rtol=1e-6
    )


# It commutes


@pytest.mark.parametrize("activations", ["int8", "int8_dynamic", None])
def test_quantization_commutes_with_jit(model: Any, activations: Any) -> None:
    params, x = model
    transform = quantize.fake_quant(activations=activations)
    state = compress.init(forward, transform, params, x)
    apply = compress.apply(forward, transform)
    # tanh may differ by an ulp, which may be a step of the next layer's 127.
    np.testing.assert_allclose(
        jax.jit(apply)(params, state, x), apply(params, state, x), rtol=0, atol=0.05
    )
    apply = compress.apply(dense, transform)
    params = {"w": params["a"]}
    state = compress.init(dense, transform, params, x)
    # Without it the integers are the same; weights only, XLA may sum otherwise.
    np.testing.assert_allclose(
        jax.jit(apply)(params, state, x), apply(params, state, x), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("activations", ["int8", "int8_dynamic"])
def test_quantization_commutes_with_vmap(model: Any, activations: Any) -> None:
    params, x = {"w": model[0]["a"]}, model[1]
    transform = quantize.fake_quant(activations=activations)
    state = compress.init(dense, transform, params, x)
    state = compress.calibrate(dense, transform, params, state, [x])
    apply = compress.apply(dense, transform)
    rows = jax.vmap(lambda row: apply(params, state, row[None])[0])(x)
    np.testing.assert_array_equal(rows, apply(params, state, x))


def test_models_are_quantized_under_vmap(model: Any) -> None:
    params, x = model
    transform = quantize.fake_quant()
    state = compress.init(forward, transform, params, x)
    apply = compress.apply(forward, transform)
    two = jax.tree.map(lambda p: jnp.stack([p, 2.0 * p]), params)
    out = jax.vmap(lambda p: apply(p, state, x))(two)
    np.testing.assert_allclose(out[0], apply(params, state, x), rtol=0, atol=0.05)


# Dtypes, coverage, checks


def test_bfloat16_parameters_stay_bfloat16(model: Any) -> None:
    params, x = jax.tree.map(lambda p: p.astype(jnp.bfloat16), model)
    exact = forward(params, x)
    out = applied(forward, params, x)
    assert out.dtype == jnp.bfloat16
    largest = float(jnp.abs(exact).max())
    # bf16 has 8 bits, the grid 7: a few percent of the largest output.
    np.testing.assert_allclose(
        np.float32(out), np.float32(exact), rtol=0, atol=0.05 * largest
    )


def test_a_weight_cast_to_bfloat16_in_the_model_is_quantized(model: Any) -> None:
    params, x = {"w": model[0]["a"]}, model[1].astype(jnp.bfloat16)
    cast = lambda p, x: x @ p["w"].astype(jnp.bfloat16)  # noqa: E731
    assert scale_shape(cast, params["w"], x) == (1, 8)
    assert applied(cast, params, x).dtype == jnp.bfloat16


def test_excluded_sites_stay_in_float(model: Any) -> None:
    params, x = model
    transform = quantize.fake_quant(exclude="a")
    state = compress.init(forward, transform, params, x)
    seen = compress.parameters(transform, params, state)
    assert isinstance(seen["b"], Quantized)
    assert seen["a"] is params["a"]
    assert set(state.memory.ranges) == {"b"}


def test_the_grid_is_checked(model: Any) -> None:
    params, x = model
    transform = quantize.fake_quant()
    state = compress.init(forward, transform, params, x)
    compress.check(transform, params, state)
    moves = lambda box: Quantized(box.qvalue + 0.5, box.scale, box.dtype)  # noqa: E731
    harmful = compress.Transform(
        "harmful",
        init=lambda params, sites: (),
        parameters=lambda m, p, step: {**p, "a": moves(p["a"])},
        preserves=frozenset({"grid"}),
    )
    broken = chain(transform, harmful)
    state = compress.init(forward, broken, params, x)
    with pytest.raises(ContractError, match='"a": off the integer grid'):
        compress.check(broken, params, state)


def test_before_its_start_there_is_no_grid_to_check(model: Any) -> None:
    transform = quantize.fake_quant(steps=(5, None))
    state = compress.init(forward, transform, *model)
    compress.check(transform, model[0], state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "int9"}, r"weights='int9' must be one of \('int8', 'int4'\)"),
        ({"activations": "fp8"}, "activations='fp8' must be one of"),
        ({"observer": "mean"}, r"must be one of \('ema', 'absmax'\)"),
        ({"decay": 1.0}, "between 0 and 1"),
        ({"steps": (-1, None)}, "0 <= start <= freeze"),
        ({"steps": (5, 4)}, "or freeze=None to keep observing"),
    ],
)
def test_bad_settings_are_refused_with_the_remedy(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize.fake_quant(**settings)


def test_int4_weights_are_whole_numbers_up_to_seven() -> None:
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(8, 5)), "float32")}
    x = jnp.ones((2, 8))
    forward = lambda p, x: x @ p["w"]  # noqa: E731
    transform = compress.quantize.fake_quant(weights="int4", activations=None)
    state = compress.init(forward, transform, params, x)
    box = transform.parameters(state.memory, params, state.step)["w"]
    assert box.bits == 4
    values = np.asarray(box.qvalue)
    assert (values == np.round(values)).all() and np.abs(values).max() == 7
    # Half a step of a grid that just reaches the largest weight of each column.
    step = np.abs(np.asarray(params["w"])).max(0) / 7
    wrong = np.abs(np.asarray(box.dequantize()) - np.asarray(params["w"]))
    assert (wrong <= 0.5001 * step).all()
