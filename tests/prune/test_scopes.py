"""Scopes share a sparsity out exactly, and let no layer die."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import compress
from compress import prune, ramp
from compress.prune.scopes import apportion, erk_density

SHAPES = {"a": (3, 4, 4), "b": (4, 20), "c": (20, 3)}


def forward(params: Any, x: Any) -> Any:
    h = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params["a"])[0]
    return jnp.tanh(h @ params["b"]) @ params["c"]


def make_params(**sizes: float) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        name: jnp.asarray(sizes.get(name, 1.0) * rng.standard_normal(s), jnp.float32)
        for name, s in SHAPES.items()
    }


def pruned(when: Any, params: Any = None, **settings: Any) -> dict[str, np.ndarray]:
    """How many weights of each layer are pruned."""
    params = params or make_params()
    transform = prune.connections(when, **settings)
    state = compress.init(forward, transform, params, jnp.ones((2, 4)))
    masks = {name: np.asarray(mask) for name, mask in state.memory.masks.items()}
    layers = {"a": (1, 2), "b": None, "c": None}
    return {name: (~mask).sum(layers[name]) for name, mask in masks.items()}


def total(counts: Any) -> int:
    return sum(int(np.sum(count)) for count in counts.values())


# Erdos-Renyi-Kernel


def test_erk_of_lenet_300_100_is_what_the_formula_says() -> None:
    # Evci et al. 2020: density = scale * (in + out) / (in * out), and 1 at most.
    # 90 % of 266200: the last layer would keep 1.84 of itself, so it stays dense;
    # then scale = (26620 - 1000) / (1084 + 400).
    shapes = [(784, 300), (300, 100), (100, 10)]
    found = erk_density(shapes, np.ones(3), 0.1)
    scale = 25620 / 1484
    expected = [scale * 1084 / 235200, scale * 400 / 30000, 1.0]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@given(
    st.lists(st.tuples(*[st.integers(1, 40)] * 2), min_size=1, max_size=6),
    st.floats(0.01, 1.0),
    st.integers(0, 99),
)
def test_erk_keeps_the_density_and_is_proportional_where_not_dense(
    shapes: Any, density: float, seed: int
) -> None:
    repeats = np.random.default_rng(seed).integers(1, 4, len(shapes))
    found = erk_density(shapes, repeats, density)
    sizes = np.array([a * b for a, b in shapes]) * repeats
    assert (found * sizes).sum() == pytest.approx(density * sizes.sum())
    assert found.max() <= 1.0 + 1e-9
    raw = np.array([(a + b) / (a * b) for a, b in shapes])
    scale = (found / raw)[found < 1.0]
    np.testing.assert_allclose(scale, scale[:1].repeat(len(scale)), rtol=1e-9)
    # A dense layer is one that would keep more than it has.
    assert (scale[:1].max(initial=0.0) * raw[found == 1.0] >= 1.0 - 1e-9).all() or not (
        len(scale)
    )


def test_a_convolutions_window_counts_in_erk() -> None:
    found = erk_density([(3, 3, 16, 32), (16, 32)], np.ones(2), 0.2)
    kernel, dense = 54 / (9 * 512), 48 / 512
    assert found[0] / found[1] == pytest.approx(kernel / dense)


def test_erk_prunes_exactly_and_large_layers_more() -> None:
    counts = pruned(0.6, scope="erk")
    assert total(counts) == round(0.6 * 188)
    shapes, repeats = [(4, 4), (4, 20), (20, 3)], np.array([3, 1, 1])
    wanted = np.array([16, 80, 60]) * (1 - erk_density(shapes, repeats, 0.4))
    np.testing.assert_allclose(counts["a"], wanted[0], atol=1)
    np.testing.assert_allclose([counts["b"], counts["c"]], wanted[1:], atol=1)


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=8),
    st.floats(0.0, 1.0),
    st.integers(0, 99),
)
def test_apportioned_counts_have_the_sum_and_stay_within_bounds(
    sizes: Any, share: float, seed: int
) -> None:
    rng, highest = np.random.default_rng(seed), np.array(sizes)
    lowest = rng.integers(0, highest + 1)
    target = int(lowest.sum() + share * (highest - lowest).sum())
    wanted = rng.uniform(-5.0, 55.0, len(sizes))
    counts = apportion(wanted, target, lowest, highest)
    assert counts.sum() == target
    assert (counts >= lowest).all()
    assert (counts <= highest).all()


# The others


def test_an_explicit_map_gives_each_site_its_own_and_the_last_glob_counts() -> None:
    counts = pruned(0.5, scope={"**": 0.25, "b": 0.75, "a": 0.0})
    np.testing.assert_array_equal(counts["a"], [0, 0, 0])
    assert (counts["b"], counts["c"]) == (60, 15)


def test_sites_that_no_glob_names_get_the_sparsity_of_the_schedule() -> None:
    counts = pruned(0.5, scope={"b": 0.75})
    np.testing.assert_array_equal(counts["a"], [8, 8, 8])
    assert (counts["b"], counts["c"]) == (60, 30)


def test_a_map_alone_leaves_other_sites_dense() -> None:
    counts = pruned(None, scope={"b": 0.75})
    np.testing.assert_array_equal(counts["a"], [0, 0, 0])
    assert (counts["b"], counts["c"]) == (60, 0)


def test_sites_of_a_map_are_equally_far_on_a_ramp() -> None:
    when = prune.gradual(ramp(0.0, 0.8, steps=(0, 2), power=1.0))
    transform = prune.connections(when, scope={"b": 0.4})
    params = make_params()
    state = compress.init(forward, transform, params, jnp.ones((2, 4)))
    update = jax.jit(lambda s: compress.update(transform, s, params))
    for expected in ((16, 24), (32, 48)):
        state = update(state)
        zeros = {n: int((~m).sum()) for n, m in state.memory.masks.items()}
        assert (zeros["b"], zeros["c"]) == expected


def test_normalized_scores_make_the_size_of_a_layer_no_matter() -> None:
    even = pruned(0.5, scope="normalized")
    uneven = pruned(0.5, make_params(a=100.0, b=0.01), scope="normalized")
    np.testing.assert_array_equal(uneven["a"], even["a"])
    assert (uneven["b"], uneven["c"]) == (even["b"], even["c"])
    assert total(even) == 94


@pytest.mark.parametrize("scope", ["global", "normalized", "erk", "uniform"])
def test_a_ramp_of_any_scope_ends_exactly(scope: str) -> None:
    when = prune.gradual(ramp(0.1, 0.7, steps=(0, 3)), every=2)
    transform = prune.connections(when, scope=scope)
    params = make_params()
    state = compress.init(forward, transform, params, jnp.ones((2, 4)))
    update = jax.jit(lambda s, p: compress.update(transform, s, p))
    for _ in range(4):
        params = {n: jnp.roll(p, 1) * 1.5 for n, p in params.items()}
        state = update(state, params)
    zeros = sum(int((~mask).sum()) for mask in state.memory.masks.values())
    # Uniform rounds in each layer: 3 x 11 of 16, 56 of 80, 42 of 60.
    assert zeros == {"uniform": 131}.get(scope, round(0.7 * 188))


# No layer dies


def test_a_layer_of_small_weights_keeps_its_best_and_others_make_up_for_it() -> None:
    params = make_params(c=1e-6)
    assert pruned(0.5, params, min_kept=0)["c"] == 60
    for min_kept in (1, 5):
        counts = pruned(0.5, params, min_kept=min_kept)
        assert counts["c"] == 60 - min_kept
        assert total(counts) == 94


def test_each_scanned_layer_keeps_some() -> None:
    params = make_params()
    params["a"] = params["a"] * jnp.asarray([1.0, 1e-6, 1e-7])[:, None, None]
    counts = pruned(0.5, params, min_kept=2)
    np.testing.assert_array_equal(counts["a"][1:], [14, 14])
    assert total(counts) == 94


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"when": 0.99}, r"prunes 186 of 188.*min_kept=1 must stay.*at most 0\.9734"),
        ({"when": 0.98, "scope": "erk"}, r"prunes 184 of 188.*at most 0\.9734"),
        (
            {"when": 0.97, "scope": "uniform"},
            r'"a": .*16 of 16 in each layer.*at most 0\.9375',
        ),
        ({"when": 0.5, "scope": {"c": 0.99}}, r'"c": sparsity=0\.99 prunes 59 of 60'),
    ],
)
def test_a_sparsity_that_would_kill_a_layer_is_refused(
    settings: Any, message: str
) -> None:
    if isinstance(settings.get("scope"), dict):
        settings = {**settings, "min_kept": 2}
    with pytest.raises(ValueError, match=message):
        pruned(**settings)


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        ("erd", "must be one of .*'erk'"),
        ({}, "names no site"),
        ({"b": 1.0}, "below 1; it is the fraction"),
        ({"d/**": 0.5}, r"matches none of 3 sites\. The nearest"),
        ({"c": 0.5}, r'scope\["c"\] matches only c, which is not pruned'),
    ],
)
def test_a_bad_scope_is_refused(scope: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pruned(0.5, scope=scope, exclude="c")
