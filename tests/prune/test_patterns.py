"""Patterns: which connections go together, for any order of a parameter's axes."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import compress
from compress import prune, ramp
from compress.prune.patterns import as_pattern
from compress.prune.weights import Weight


def weight(shape: Any, layers: Any, output: Any, window: Any, inputs: Any) -> Weight:
    return Weight("w", ("w",), shape, layers, output, window, inputs, mixed=False)


WEIGHTS = {
    "dense": weight((8, 6), (), (1,), (), (0,)),
    "transposed": weight((6, 8), (), (0,), (), (1,)),
    "scanned": weight((3, 8, 4), (0,), (2,), (), (1,)),
    "layers inside": weight((8, 3, 4), (1,), (2,), (), (0,)),
    "heads": weight((2, 4, 6), (), (2,), (), (0, 1)),
    "HWIO": weight((3, 2, 8, 4), (), (3,), (0, 1), (2,)),
    "OIHW": weight((4, 8, 3, 2), (), (0,), (2, 3), (1,)),
}
PATTERNS: dict[str, Any] = {
    "unstructured": "unstructured",
    "2:4": "2:4",
    "block": {"block": [2, 4]},
    "channel": "channel",
    "row": "row",
}


def matrix(w: Weight, x: np.ndarray) -> np.ndarray:
    """[layers, output, window, inputs], by NumPy alone."""
    groups = (w.layers, w.output, w.window, w.inputs)
    order = [axis for axes in groups for axis in axes]
    sizes = [math.prod(w.shape[axis] for axis in axes) for axes in groups]
    return x.transpose(order).reshape(sizes)


def blocks(x: np.ndarray) -> np.ndarray:
    rows, outputs, window, inputs = x.shape
    wide = x.reshape(rows, outputs // 2, 2, window * inputs // 4, 4)
    return wide.transpose(0, 1, 3, 2, 4)


# The connections of each unit on the last axes, by the pattern's definition.
MEANS: dict[str, Any] = {
    "unstructured": lambda x: x,
    "2:4": lambda x: x,
    "block": lambda x: blocks(x).mean((3, 4)),
    "channel": lambda x: x.mean((2, 3)),
    "row": lambda x: x.mean(1),
}


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_units_are_the_means_of_what_goes_together(name: str, kind: str) -> None:
    w, pattern = WEIGHTS[kind], as_pattern(PATTERNS[name])
    x = np.random.default_rng(0).standard_normal(w.shape).astype(np.float32)
    units = np.asarray(pattern.units(jnp.asarray(x), w))
    assert units.shape == pattern.shape(w)
    expected = np.sort(MEANS[name](matrix(w, x)).reshape(w.rows, -1), axis=1)
    found = np.sort(units.reshape(w.rows, -1), axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_what_is_spread_comes_back_as_units(name: str, kind: str) -> None:
    w, pattern = WEIGHTS[kind], as_pattern(PATTERNS[name])
    kept = np.random.default_rng(1).random(pattern.shape(w)) < 0.5
    mask = pattern.spread(jnp.asarray(kept), w)
    assert mask.shape == w.shape
    np.testing.assert_array_equal(pattern.units(mask.astype(jnp.float32), w), kept)


def run(params: Any, pattern: Any, forward: Any, x: Any, **more: Any) -> np.ndarray:
    transform = prune.connections(pattern=pattern, **more)
    state = compress.init(forward, transform, params, x)
    return np.asarray(state.memory.masks["w"])


few_values = st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.0]), min_size=24, max_size=24)


@given(few_values, st.sampled_from([(1, 2), (2, 4), (1, 4), (5, 6), (1, 12)]))
def test_n_of_each_m_inputs_are_kept_under_any_ties(values: Any, kept: Any) -> None:
    n, m = kept
    w = np.asarray(values, np.float32).reshape(12, 2)
    mask = run({"w": w}, f"{n}:{m}", lambda p, x: x @ p["w"], np.ones((1, 12), "f"))
    groups = mask.T.reshape(2, -1, m)
    np.testing.assert_array_equal(groups.sum(2), n)
    sizes = np.abs(w).T.reshape(2, -1, m)
    smallest_kept = np.where(groups, sizes, np.inf).min(2)
    largest_pruned = np.where(groups, -np.inf, sizes).max(2)
    assert (largest_pruned <= smallest_kept).all()


@pytest.mark.parametrize("layout", ["HWIO", "OIHW"])
def test_groups_of_a_convolution_run_along_its_input_channels(layout: str) -> None:
    shape = {"H": 3, "W": 2, "I": 8, "O": 4}
    w = jax.random.normal(jax.random.key(0), [shape[axis] for axis in layout])

    def forward(p: Any, x: Any) -> Any:
        spec = ("NHWC", layout, "NHWC")
        return jax.lax.conv_general_dilated(
            x, p["w"], (1, 1), "SAME", dimension_numbers=spec
        )

    mask = run({"w": w}, "2:4", forward, jnp.ones((1, 4, 4, 8)))
    mask = mask.transpose([layout.index(axis) for axis in "HWOI"])
    np.testing.assert_array_equal(mask.reshape(3, 2, 4, 2, 4).sum(-1), 2)


def test_groups_get_sparser_along_a_ramp_and_none_comes_back() -> None:
    forward = lambda p, x: x @ p["w"]  # noqa: E731
    transform = prune.connections(
        prune.gradual(ramp(0.0, 0.75, steps=(0, 4), power=1.0)), pattern="1:4"
    )
    params = {"w": jax.random.normal(jax.random.key(0), (8, 3))}
    state = compress.init(forward, transform, params, jnp.ones((1, 8)))
    update = jax.jit(lambda s, p: compress.update(transform, s, p))
    before = np.ones((8, 3), bool)
    for kept in (3, 2, 2, 1, 1):
        params = {"w": jnp.roll(params["w"], 1) * 1.5}
        state = update(state, params)
        mask = np.asarray(state.memory.masks["w"])
        np.testing.assert_array_equal(mask.reshape(2, 4, 3).sum(1), kept)
        assert not (mask & ~before).any()
        before = mask


@pytest.mark.parametrize("pattern", [{"block": [2, 4]}, "channel", "row"])
def test_whole_units_are_pruned_and_as_many_as_asked(pattern: Any) -> None:
    w = jax.random.normal(jax.random.key(0), (8, 6))
    mask = run({"w": w}, pattern, lambda p, x: x @ p["w"], jnp.ones((1, 8)), when=0.5)
    axes = {"channel": (0,), "row": (1,)}.get(str(pattern))
    units = mask.reshape(2, 4, 3, 2).transpose(0, 2, 1, 3).reshape(6, 8)
    units = mask.mean(axes) if axes else units.mean(1)
    assert set(units.tolist()) == {0.0, 1.0}
    assert units.mean() == 0.5


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("4:2", "at least 1 and fewer than 2 of each 2"),
        ("0:4", "at least 1 and fewer than 4"),
        ("blocks", r"must be one of .*\{\"block\": \[rows, columns\]\}"),
        ({"block": [0, 4]}, "must be positive"),
        ({"blok": [2, 4]}, "must be one of"),
    ],
)
def test_a_bad_pattern_is_refused(pattern: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prune.connections(0.5, pattern=pattern)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("2:4", r'"w": the input axis 0 of \(10, 6\) has 10 .* 4 does not divide.*5, '),
        ({"block": [4, 5]}, r"the output axis 1 of .* has 6.*These do: 1, 2, 3, 6"),
        ({"block": [3, 4]}, r"the contracting axis 0 .*exclude the site"),
    ],
)
def test_an_axis_that_is_not_divided_is_named(pattern: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(
            {"w": jnp.ones((10, 6))},
            pattern,
            lambda p, x: x @ p["w"],
            jnp.ones((1, 10)),
            when=0.5,
        )


def test_a_weight_read_along_two_axes_has_no_groups() -> None:
    twice = lambda p, x: x @ p["w"] @ p["w"].T  # noqa: E731
    with pytest.raises(ValueError, match="w, w#1 read it along different axes"):
        run({"w": jnp.ones((4, 4))}, "2:4", twice, jnp.ones((1, 4)))
