"""Structured pruning while training: masks of units, one compilation, one boundary."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import compress
from compress import ContractError, chain, prune, quantize, ramp
from compress.transform import Transform
from tests.prune.structured.models import (
    STREAM,
    conv,
    conv_groups,
    conv_params,
    mlp,
    mlp_groups,
    mlp_params,
    stack,
    stack_groups,
    stack_params,
)

X = jnp.asarray(np.random.default_rng(1).standard_normal((8, 6)), jnp.float32)
MACS = {"macs": 0.4}


def alive_of(state: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(a) for name, a in state.memory.alive.items()}


def train(transform: Transform, steps: int) -> tuple[list[Any], list[Any], int]:
    """States and parameters from each step of a noisy descent; and the compilations."""
    params = mlp_params()
    state = compress.init(mlp, transform, params, X)
    run, traces = compress.observe(mlp, transform), []

    @jax.jit
    def step(params: Any, state: Any, x: Any) -> Any:
        traces.append(1)

        def loss(p: Any) -> Any:
            out, observed = run(p, state, x)
            return jnp.mean(jnp.square(out)), observed

        grads, observed = jax.grad(loss, has_aux=True)(params)
        params = jax.tree.map(lambda p, g: p - 1e-3 * g, params, grads)
        return params, compress.update(transform, state, params, grads, observed)

    states, trained = [state], [params]
    for i in range(steps):
        params, state = step(params, state, X * (1.0 + 0.1 * i))
        states.append(state)
        trained.append(params)
    return states, trained, len(traces)


@pytest.mark.parametrize(
    "settings",
    [
        {"score": "l2"},
        {"score": "taylor", "normalize": "isomorphic"},
        {"score": "fisher", "allocation": "uniform"},
        {"score": "activation", "normalize": "none"},
    ],
)
def test_a_ramp_is_one_compilation_and_ends_at_the_budget(settings: Any) -> None:
    groups = mlp_groups()
    settings = {"budget": MACS, "round_to": 2, **settings}
    transform = prune.structured(
        groups, when=ramp(0.0, 1.0, steps=(2, 9), power=1.0), every=3, **settings
    )
    states, trained, compilations = train(transform, 11)
    assert compilations == 1
    masks = [alive_of(state) for state in states]
    counts = [sum(int(a.sum()) for a in mask.values()) for mask in masks]
    changed = [i for i in range(1, 12) if counts[i] != counts[i - 1]]
    assert set(changed) <= {5, 8, 9}
    assert len(changed) >= 2
    for earlier, later in itertools.pairwise(masks):
        assert all(not (later[n] & ~earlier[n]).any() for n in later)
    # The boundary keeps exactly what the masks keep, and the budget is met.
    choice = prune.kept_units(groups, trained[-1], states[-1], **settings)
    for name, mask in masks[-1].items():
        kept = choice.keep.get(name, np.arange(mask.size))
        np.testing.assert_array_equal(np.nonzero(mask)[0], kept)
        assert mask.sum() % 2 == 0
    assert choice.left["macs"] <= 0.4
    # One step less would not have met it.
    back = [groups.macs({**choice.sizes, n: s + 2}) for n, s in choice.sizes.items()]
    assert max(back) > 0.4 * groups.macs()


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("wide", {"budget": {"macs": 0.8}, "round_to": 4}),
        ("wide", {"budget": {"macs": 1.0}}),
        ("stack", {"budget": {"macs": 0.4}, "drop_layers": 2, "round_to": 1}),
    ],
)
def test_one_shot_before_the_first_step_is_the_choice_on_the_host(
    model: str, settings: Any
) -> None:
    forward, params, groups, x = (
        (mlp, mlp_params(40, 60), mlp_groups(40, 60), X)
        if model == "wide"
        else (stack, stack_params(), stack_groups(), X[:, :5])
    )
    transform = prune.structured(groups, **settings)
    state = compress.init(forward, transform, params, x)
    scores = prune.unit_scores(groups, params).values
    choice = prune.choose_units(groups, scores, **settings)
    # Savings are linearised under jit: for a small step the choice is the same.
    for name, mask in alive_of(state).items():
        kept = np.nonzero(mask)[-1].reshape((*mask.shape[:-1], -1))
        whole = np.broadcast_to(np.arange(mask.shape[-1]), mask.shape)
        np.testing.assert_array_equal(kept, choice.keep.get(name, whole))
    metrics = jax.jit(lambda s: compress.metrics(transform, s))(state)
    assert float(metrics["macs_left"]) == pytest.approx(choice.left["macs"])
    for name, size in choice.sizes.items():
        whole = groups[name].size
        assert float(metrics[f"units/{name}"]) == pytest.approx(size / whole)


# Layers go, and the others keep units of their own.
IN_LAYERS = {"exclude": STREAM, "round_to": 4, "drop_layers": 2}
MODELS = {
    "mlp": (mlp, mlp_params, mlp_groups, X, {}),
    "stack": (stack, stack_params, stack_groups, X[:, :5], IN_LAYERS),
    "conv": (conv, conv_params, conv_groups, jnp.ones((1, 5, 5, 2)), {}),
}


class Pruned(NamedTuple):
    """One of the models, half of it masked."""

    forward: Any
    params: Any
    groups: compress.Groups
    x: Any
    settings: dict[str, Any]
    transform: Transform
    state: Any
    masked: Any
    seen: Any


@functools.cache
def pruned(model: str) -> Pruned:
    forward, make, find, x, more = MODELS[model]
    params, groups = make(), find()
    settings = {"budget": {"parameters": 0.4}, "round_to": 2, **more}
    transform = prune.structured(groups, **settings)
    state = compress.init(forward, transform, params, x)
    masked = jax.jit(compress.apply(forward, transform))
    seen = jax.jit(lambda p, s: compress.parameters(transform, p, s))(params, state)
    return Pruned(forward, params, groups, x, settings, transform, state, masked, seen)


@pytest.mark.parametrize("model", MODELS)
def test_nothing_of_a_removed_unit_reaches_the_output_or_gets_a_gradient(
    model: str,
) -> None:
    _, params, _, x, _, transform, state, masked, seen = pruned(model)
    compress.check(transform, params, state)
    removed = jax.tree.map(lambda s, p: (s == 0) & (p != 0), seen, params)
    assert any(np.asarray(r).any() for r in jax.tree.leaves(removed))
    garbage = jax.tree.map(lambda r, p: jnp.where(r, 1e6, p), removed, params)
    np.testing.assert_array_equal(masked(garbage, state, x), masked(params, state, x))
    grads = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(masked(p, state, x)))))(garbage)
    for grad, gone in zip(jax.tree.leaves(grads), jax.tree.leaves(removed)):
        assert not np.asarray(grad)[np.asarray(gone)].any()


def test_the_activation_score_learns_from_calibration_too() -> None:
    groups, params = mlp_groups(), mlp_params()
    settings = {"budget": MACS, "round_to": 2, "score": "activation"}
    transform = prune.structured(groups, when=5, **settings)
    state = compress.init(mlp, transform, params, X)
    batches = [X, 2.0 * X]
    state = compress.calibrate(mlp, transform, params, state, batches)
    expected = prune.unit_scores(
        groups, params, "activation", batches=batches, forward=mlp
    ).values
    chosen = prune.choose_units(groups, expected, budget=MACS, round_to=2)
    found = prune.kept_units(groups, params, state, **settings)
    assert prune.keep_to_json(found.keep) == prune.keep_to_json(chosen.keep)


def test_the_state_is_found_inside_a_chain() -> None:
    groups, params = mlp_groups(), mlp_params()
    transform = chain(
        prune.magnitude(ramp(0.0, 0.2, steps=(1, 2))),
        prune.structured(groups, budget=MACS, round_to=2),
        quantize.fake_quant(),
    )
    state = compress.init(mlp, transform, params, X)
    choice = prune.kept_units(groups, params, state, budget=MACS, round_to=2)
    assert choice.left["macs"] <= 0.4
    with pytest.raises(ValueError, match="holds 2 states of prune.structured"):
        prune.kept_units(groups, params, (state, state), budget=MACS, round_to=2)


def test_the_boundary_finishes_what_the_schedule_left() -> None:
    groups, params = mlp_groups(), mlp_params()
    settings = {"budget": MACS, "round_to": 2}
    transform = prune.structured(
        groups, when=ramp(0.0, 1.0, steps=(0, 100), power=1.0), **settings
    )
    state = compress.init(mlp, transform, params, X)
    update = jax.jit(lambda s, p: compress.update(transform, s, p))
    for _ in range(40):
        state = update(state, params)
    masks = alive_of(state)
    choice = prune.kept_units(groups, params, state, **settings)
    assert choice.left["macs"] <= 0.4
    left = groups.macs({name: int(mask.sum()) for name, mask in masks.items()})
    assert 0.6 < left / groups.macs() < 0.8
    for name, kept in choice.keep.items():
        assert masks[name][kept].all()


def test_the_plan_says_what_each_site_may_lose() -> None:
    transform = prune.structured(
        mlp_groups(), budget={"macs": 0.6}, round_to=8, names="b:1"
    )
    assert transform.plan is not None
    plan = transform.plan(compress.find_sites(mlp, mlp_params(), X))
    assert set(plan) == {"b", "c"}
    expected = "b:1: 20 to 8 units; all together until 60% of the macs are left"
    assert plan["c"] == expected


# Contracts


def test_to_remove_units_after_quantization_is_refused_with_the_order() -> None:
    ours = prune.structured(mlp_groups(), budget=MACS)
    message = (
        r"prune\.structured after quantize\.fake_quant.*Put prune\.structured first"
    )
    with pytest.raises(ValueError, match=message):
        chain(quantize.fake_quant(), ours)


def test_check_finds_a_removed_unit_that_is_not_zero() -> None:
    groups, params = mlp_groups(), mlp_params()
    harmful = Transform(
        "harmful",
        lambda params, sites: (),
        parameters=lambda memory, params, step: jax.tree.map(
            lambda p: p + jnp.ones_like(p), params
        ),
        preserves=frozenset({"mask"}),
    )
    transform = chain(prune.structured(groups, budget=MACS, round_to=2), harmful)
    state = compress.init(mlp, transform, params, X)
    with pytest.raises(
        ContractError, match=r'structured "a:1": \d+ weights of removed'
    ):
        compress.check(transform, params, state)


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": "taylor"}, "learns from data, and before the first step"),
        ({"score": "l3"}, "score='l3' must be one of"),
        ({"when": ramp(0.0, 0.5, steps=(0, 9))}, r"Give a ramp from 0\.0 to 1\.0"),
        ({"every": 0}, "every=0 must be at least 1"),
        ({"decay": 1.0}, "decay=1.0 must be between"),
        ({"budget": {"latency": 0.5}}, r"choose_units\(\.\.\., measure=\)"),
        ({"budget": {"macs": 0.01}}, "cannot be met"),
        ({"names": "a:0"}, "an axis of the model's input"),
    ],
)
def test_bad_settings_are_refused_before_any_work(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prune.structured(mlp_groups(), **{"budget": MACS, **change})


def test_a_score_of_gradients_needs_them() -> None:
    transform = prune.structured(mlp_groups(), budget=MACS, score="taylor", when=2)
    state = compress.init(mlp, transform, mlp_params(), X)
    with pytest.raises(ValueError, match=r"Give grads to compress\.update"):
        compress.update(transform, state, mlp_params())


def test_the_state_of_other_settings_is_refused_at_the_boundary() -> None:
    groups, params = mlp_groups(), mlp_params()
    transform = prune.structured(groups, budget=MACS, round_to=2, exclude="a:1")
    state = compress.init(mlp, transform, params, X)
    with pytest.raises(ValueError, match="of other groups or settings"):
        prune.kept_units(groups, params, state, budget=MACS, round_to=2)


# The shrunk model


@pytest.mark.parametrize("model", MODELS)
def test_the_shrunk_model_is_what_the_masks_trained(model: str) -> None:
    forward, params, groups, x, settings, _, state, masked, seen = pruned(model)
    choice = prune.kept_units(groups, params, state, **settings)
    small = compress.shrink(forward, params, choice.keep, groups=groups)
    sizes = [leaf.size for leaf in jax.tree.leaves(small.params)]
    assert sum(sizes) == groups.parameters(choice.sizes)
    assert choice.left["parameters"] == sum(sizes) / groups.parameters()
    twin = prune.mask_units(params, groups, choice.keep)
    jax.tree.map(np.testing.assert_array_equal, seen, twin)
    expected = masked(params, state, x)
    found = jax.jit(small.forward)(small.params, x)
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)
