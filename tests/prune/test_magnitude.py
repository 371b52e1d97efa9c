"""Magnitude pruning: exact counts, the smallest weights, and masks that only shrink."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import compress
from compress import ContractError, chain, prune, quantize, ramp
from compress.interpret import Quantized
from compress.prune import apply_masks
from compress.prune.select import keep_largest, keep_largest_per_row

# Each example compiles for shapes of its own.


def forward(params: Any, x: Any) -> Any:
    h = jnp.take(params["embed"], x, axis=0)
    h = h * params["norm"][None]
    h = jnp.tanh(h @ params["up"] + params["bias"][None])
    return h @ params["down"]


IDS = jnp.arange(3)


def make_params(seed: int = 0, few: bool = False) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    shapes = {"embed": (5, 4), "norm": (4,), "up": (4, 6), "bias": (6,), "down": (6, 3)}
    draw = (lambda s: rng.integers(-2, 3, s)) if few else rng.standard_normal
    return {n: jnp.asarray(draw(s), jnp.float32) for n, s in shapes.items()}


def masks_after(transform: Any, params: Any, steps: int) -> list[dict[str, np.ndarray]]:
    """The masks before the first step and after each."""
    state = compress.init(forward, transform, params, IDS)
    update = jax.jit(lambda s, p: compress.update(transform, s, p))
    history = [state.memory.masks]
    for step in range(steps):
        # Weights move, also the pruned ones.
        growth = 1.0 + step % 3
        params = {n: jnp.roll(p, 1) * growth for n, p in params.items()}
        state = update(state, params)
        history.append(state.memory.masks)
    return [jax.tree.map(np.asarray, masks) for masks in history]


def zeros(masks: Any) -> int:
    return sum(int((~mask).sum()) for mask in masks.values())


# Masks

few_values = st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=12, max_size=12)


@given(few_values, st.integers(0, 12))
def test_exactly_k_are_pruned_under_any_ties_and_none_larger_than_a_kept_one(
    scores: list[float], k: int
) -> None:
    mask = np.asarray(keep_largest(jnp.asarray(scores), jnp.int32(k)))
    assert (~mask).sum() == k
    kept, pruned = np.asarray(scores)[mask], np.asarray(scores)[~mask]
    assert pruned.max(initial=-np.inf) <= kept.min(initial=np.inf)


@given(few_values, st.integers(0, 4))
def test_each_row_has_exactly_k_zeros(scores: list[float], k: int) -> None:
    rows = jnp.asarray(scores).reshape(3, 4)
    mask = keep_largest_per_row(rows, jnp.int32(k))
    expected = [keep_largest(row, jnp.int32(k)) for row in rows]
    np.testing.assert_array_equal(mask, jnp.stack(expected))


def test_among_equal_scores_the_first_are_pruned() -> None:
    mask = keep_largest(jnp.ones(4), jnp.int32(2))
    np.testing.assert_array_equal(mask, [False, False, True, True])


def test_a_score_that_is_nan_is_kept() -> None:
    mask = keep_largest(jnp.asarray([jnp.nan, 1.0, 2.0]), jnp.int32(2))
    np.testing.assert_array_equal(mask, [True, False, False])


# Counts


@given(st.floats(0.0, 0.99), st.integers(0, 3), st.booleans())
def test_global_pruning_has_exactly_the_fraction_of_zeros(
    sparsity: float, seed: int, few: bool
) -> None:
    params = make_params(seed, few)
    (masks,) = masks_after(prune.magnitude(sparsity), params, 0)
    assert zeros(masks) == round(sparsity * (24 + 18))
    scores = np.concatenate([np.abs(params[n]).ravel() for n in masks])
    kept = np.concatenate([m.ravel() for m in masks.values()])
    assert scores[~kept].max(initial=-1.0) <= scores[kept].min(initial=np.inf)


@given(st.floats(0.0, 0.99), st.integers(0, 3), st.booleans())
def test_uniform_pruning_has_the_fraction_of_zeros_in_each_site(
    sparsity: float, seed: int, few: bool
) -> None:
    params = make_params(seed, few)
    (masks,) = masks_after(prune.magnitude(sparsity, scope="uniform"), params, 0)
    assert zeros({"up": masks["up"]}) == round(sparsity * 24)
    assert zeros({"down": masks["down"]}) == round(sparsity * 18)


def test_a_sparsity_of_a_few_weights_in_many_is_reached() -> None:
    # 0.0004 of 10000 is 4; of 1000 it would round to none.
    model = lambda p, x: x @ p["w"]  # noqa: E731
    weights = {"w": jnp.arange(10_000.0).reshape(100, 100)}
    state = compress.init(model, prune.magnitude(0.0004), weights, jnp.ones((1, 100)))
    assert zeros(jax.tree.map(np.asarray, state.memory.masks)) == 4


def test_global_pruning_takes_more_from_the_smaller_weights() -> None:
    params = make_params()
    params["down"] = 100.0 * params["down"]
    (masks,) = masks_after(prune.magnitude(0.5), params, 0)
    assert zeros({"down": masks["down"]}) == 0
    assert zeros({"up": masks["up"]}) == 21


def test_uniform_pruning_treats_each_stacked_layer_alone() -> None:
    def scanned(params: Any, x: Any) -> Any:
        return jax.lax.scan(lambda h, w: (h @ w, None), x, params["w"])[0]

    sizes = jnp.asarray([1.0, 10.0, 100.0])[:, None, None]
    weights = sizes * jax.random.normal(jax.random.key(0), (3, 4, 4))
    transform = prune.magnitude(0.25, scope="uniform")
    state = compress.init(scanned, transform, {"w": weights}, jnp.ones((2, 4)))
    mask = np.asarray(state.memory.masks["w"])
    np.testing.assert_array_equal((~mask).sum(axis=(1, 2)), [4, 4, 4])


# Time


@given(
    st.integers(0, 4),
    st.integers(0, 9),
    st.integers(1, 7),
    st.sampled_from(["global", "uniform"]),
    st.floats(0.1, 0.95),
)
def test_the_target_is_reached_exactly_whatever_the_ramp_and_interval(
    begin: int, length: int, every: int, scope: str, final: float
) -> None:
    steps = ramp(0.0, final, steps=(begin, begin + length))
    transform = prune.magnitude(steps, scope=scope, every=every)
    history = masks_after(transform, make_params(), 15)
    target = round(final * 42)
    if scope == "uniform":
        target = round(final * 24) + round(final * 18)
    assert zeros(history[begin + length]) == target
    assert zeros(history[-1]) == target
    for earlier, later in itertools.pairwise(history):
        for name in earlier:
            assert not (later[name] & ~earlier[name]).any()


def test_several_ramps_follow_one_another() -> None:
    ramps = [ramp(0.0, 0.3, steps=(0, 3)), ramp(0.3, 0.8, steps=(6, 9))]
    history = masks_after(prune.magnitude(ramps), make_params(), 12)
    counts = [zeros(masks) for masks in history]
    assert counts[0] == 0
    assert counts[3:7] == [round(0.3 * 42)] * 4
    assert counts[9:] == [round(0.8 * 42)] * 4
    assert counts == sorted(counts)


def test_masks_change_only_every_so_many_steps() -> None:
    transform = prune.magnitude(ramp(0.0, 0.8, steps=(0, 10)), every=4)
    counts = [zeros(m) for m in masks_after(transform, make_params(), 12)]
    changed = [i for i in range(1, 13) if counts[i] != counts[i - 1]]
    assert changed == [4, 8, 10]


def test_a_pruned_weight_that_grew_does_not_come_back() -> None:
    transform = prune.magnitude(ramp(0.5, 0.6, steps=(0, 1)))
    params = make_params()
    state = compress.init(forward, transform, params, IDS)
    before = state.memory.masks
    grown = {
        n: jnp.where(before[n], p, 1e6) if n in before else p for n, p in params.items()
    }
    after = compress.update(transform, state, grown).memory.masks
    for name in before:
        assert not (after[name] & ~before[name]).any()


def test_a_mask_sparser_than_its_ramp_stays_so() -> None:
    # As when training goes on from a checkpoint, with a lower target.
    params = make_params()
    sparse = compress.init(forward, prune.magnitude(0.9), params, IDS)
    transform = prune.magnitude(ramp(0.0, 0.5, steps=(0, 1)))
    after = compress.update(transform, sparse, params).memory.masks
    for name, mask in sparse.memory.masks.items():
        np.testing.assert_array_equal(after[name], mask)


def test_one_compilation_serves_the_whole_ramp() -> None:
    transform = prune.magnitude(ramp(0.1, 0.8, steps=(2, 6)), every=2)
    params = make_params()
    state = compress.init(forward, transform, params, IDS)
    update = jax.jit(lambda s, p: compress.update(transform, s, p))
    for _ in range(8):
        state = update(state, params)
    assert update._cache_size() == 1


# What is pruned


def test_embeddings_biases_and_norms_are_not_pruned_by_default() -> None:
    params = make_params()
    transform = prune.magnitude(0.9)
    state = compress.init(forward, transform, params, IDS)
    seen = compress.parameters(transform, params, state)
    assert set(state.memory.masks) == {"up", "down"}
    for name in ("embed", "norm", "bias"):
        np.testing.assert_array_equal(seen[name], params[name])


def test_a_tied_embedding_is_pruned_only_by_its_exact_name() -> None:
    tied = lambda p, x: jnp.take(p["embed"], x, axis=0) @ p["w"] @ p["embed"].T  # noqa: E731
    params = {"embed": jnp.ones((5, 4)), "w": jnp.ones((4, 4))}

    def pruned(sites: Any) -> set[str]:
        state = compress.init(tied, prune.magnitude(0.5, sites=sites), params, IDS)
        return set(state.memory.masks)

    assert pruned("**") == {"w"}
    assert pruned(["embed", "w"]) == {"embed", "w"}
    with pytest.raises(ValueError, match=r"only embeddings match\. Name them"):
        pruned("emb*")


def test_the_masked_weights_are_what_the_forward_pass_sees() -> None:
    params = make_params()
    transform = prune.magnitude(0.5)
    state = compress.init(forward, transform, params, IDS)
    out = jax.jit(compress.apply(forward, transform))(params, state, IDS)
    masked = params | {
        n: jnp.where(m, params[n], 0.0) for n, m in state.memory.masks.items()
    }
    np.testing.assert_array_equal(out, jax.jit(forward)(masked, IDS))
    assert compress.metrics(transform, state)["sparsity"] == jnp.float32(0.5)


def test_a_pruned_weight_has_no_gradient() -> None:
    params = make_params()
    transform = prune.magnitude(0.5)
    state = compress.init(forward, transform, params, IDS)
    apply = compress.apply(forward, transform)
    grads = jax.grad(lambda p: (apply(p, state, IDS) ** 2).sum())(params)
    for name, mask in state.memory.masks.items():
        assert (grads[name][~mask] == 0).all()
        assert (grads[name][mask] != 0).any()


# Contracts


@pytest.mark.parametrize("activations", ["int8", "int8_dynamic", None])
def test_a_mask_survives_fake_quantization(activations: Any) -> None:
    params = make_params()
    transform = chain(
        prune.magnitude(0.6), quantize.fake_quant(activations=activations)
    )
    state = compress.init(forward, transform, params, IDS)
    seen = compress.parameters(transform, params, state)
    for name, mask in state.memory[0].masks.items():
        assert (seen[name].dequantize()[~mask] == 0).all()
    compress.check(transform, params, state)


def test_a_quantized_weight_is_masked_in_its_integers() -> None:
    box = Quantized(jnp.ones((2, 2)), jnp.ones((1, 2)))
    mask = jnp.asarray([[True, False], [False, True]])
    out = apply_masks({"w": box}, {"w": mask})["w"]
    np.testing.assert_array_equal(out.dequantize(), np.eye(2))


def test_check_raises_when_the_mask_is_broken() -> None:
    params = make_params()
    harmful = compress.Transform(
        "harmful",
        init=lambda params, sites: (),
        parameters=lambda m, p, step: {**p, "up": p["up"] + 1.0},
        preserves=frozenset({"mask"}),
    )
    transform = chain(prune.magnitude(0.5, scope="uniform"), harmful)
    state = compress.init(forward, transform, params, IDS)
    with pytest.raises(ContractError, match=r'"up": 12 pruned weights are not zero'):
        compress.check(transform, params, state)


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, "below 1; it is the fraction of zeros"),
        ({"sparsity": -0.1}, "must be at least 0"),
        ({"sparsity": ()}, "Give a number or a ramp"),
        (
            {"sparsity": 0.5, "scope": "local"},
            r"must be one of \('global', 'uniform'\)",
        ),
        ({"sparsity": 0.5, "every": 0}, "must be at least 1"),
        ({"sparsity": ramp(0.8, 0.2, steps=(0, 5))}, "falls.*Let it rise"),
        (
            {"sparsity": [ramp(0.0, 0.5, steps=(0, 5)), ramp(0.5, 0.8, steps=(3, 8))]},
            "must come after",
        ),
        (
            {"sparsity": [ramp(0.0, 0.5, steps=(0, 5)), ramp(0.0, 0.8, steps=(5, 8))]},
            "not below it: pruned weights do not come back",
        ),
    ],
)
def test_bad_settings_are_refused_with_the_remedy(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prune.magnitude(**settings)


def test_a_pattern_without_a_match_is_refused_at_init() -> None:
    transform = prune.magnitude(0.5, sites="**/kernel")
    with pytest.raises(ValueError, match=r"prune\.magnitude: .*The nearest: "):
        compress.init(forward, transform, make_params(), IDS)
