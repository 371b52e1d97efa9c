"""When masks change: each schedule against its own definition, step by step."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import compress
from compress import prune, ramp

SHAPES = {"up": (6, 8), "bias": (8,), "down": (8, 4)}
PRUNED = ("up", "down")
X = jax.random.normal(jax.random.key(9), (5, 6))


def forward(params: Any, x: Any) -> Any:
    return jnp.tanh(x @ params["up"] + params["bias"][None]) @ params["down"]


def make_params() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    draw = lambda s: jnp.asarray(rng.standard_normal(s), jnp.float32)  # noqa: E731
    return {name: draw(shape) for name, shape in SHAPES.items()}


class Moment(dict):
    """What there was before and after one step, as NumPy arrays, by attribute."""

    __getattr__ = dict.__getitem__


def train(transform: Any, steps: int, optimizer: Any = None) -> Iterator[Moment]:
    """Trains as a user would in a loop of their own, and shows every step."""
    optimizer = optimizer or optax.sgd(0.1, momentum=0.9)
    params = make_params()
    run = compress.observe(forward, transform)

    @jax.jit
    def step(params: Any, moments: Any, state: Any) -> Any:
        def loss(params: Any) -> Any:
            outputs, observed = run(params, state, X)
            return jnp.square(outputs - 1.0).mean(), observed

        grads, observed = jax.grad(loss, has_aux=True)(params)
        trained = compress.gradients(transform, state, grads)
        updates, moments = optimizer.update(trained, moments, params)
        new = optax.apply_updates(params, updates)
        new, moments = compress.hold(transform, state, new, moments)
        state = compress.update(transform, state, new, grads, observed, params)
        return new, moments, state, grads, trained

    state = compress.init(forward, transform, params, X)
    moments = optimizer.init(params)
    for count in range(1, steps + 1):
        before, masks = params, state.memory.masks
        params, moments, state, grads, trained = step(params, moments, state)
        found = {"before": before, "after": params, "old": masks, "grads": grads}
        found |= {"new": state.memory.masks, "trained": trained, "moments": moments}
        yield Moment(jax.tree.map(np.asarray, found), count=count, state=state)
    assert step._cache_size() == 1
    compress.check(transform, params, state)


def zeros(masks: Any) -> int:
    return sum(int((~mask).sum()) for mask in masks.values())


def smallest(scores: np.ndarray, count: int) -> np.ndarray:
    """True at the `count` smallest."""
    chosen = np.zeros(scores.size, bool)
    chosen[np.argsort(scores.ravel(), kind="stable")[:count]] = True
    return chosen.reshape(scores.shape)


# Periodic


def test_periodic_ranks_all_weights_again_and_brings_some_back() -> None:
    when = prune.periodic(0.5, steps=(2, 8), every=3)
    transform = prune.connections(when, scope="uniform")
    changed, returned = [], 0
    for m in train(transform, 10):
        if any((m.old[n] != m.new[n]).any() for n in PRUNED):
            changed.append(m.count)
        if m.count in (2, 5, 8):
            for n in PRUNED:
                cut = smallest(np.abs(m.after[n]), m.after[n].size // 2)
                np.testing.assert_array_equal(m.new[n], ~cut)
                returned += int((m.new[n] & ~m.old[n]).sum())
        for n in PRUNED:
            assert (m.grads[n][~m.old[n]] == 0).all()
    assert set(changed) <= {2, 5, 8}
    assert changed[0] == 2
    assert returned > 0


def test_periodic_saliency_sees_the_gradient_of_what_is_pruned() -> None:
    when = prune.periodic(0.5, steps=(2, 8), every=2)
    transform = prune.connections(when, score="saliency", scope="uniform")
    for m in train(transform, 6):
        for n in PRUNED:
            assert (m.trained[n][~m.old[n]] == 0).all()
            if m.count % 2 == 0:
                cut = smallest(np.abs(m.before[n] * m.grads[n]), m.grads[n].size // 2)
                np.testing.assert_array_equal(m.new[n], ~cut)


# Straight-through


def dense_gradient(m: Moment) -> dict[str, np.ndarray]:
    """Of the loss with respect to the masked weights."""
    seen = {n: m.before[n] * m.old[n] if n in m.old else m.before[n] for n in SHAPES}
    loss = lambda p: jnp.square(forward(p, X) - 1.0).mean()  # noqa: E731
    grads = jax.grad(loss)(jax.tree.map(jnp.asarray, seen))
    return jax.tree.map(np.asarray, grads)


def test_straight_through_trains_all_weights_and_masks_the_best_at_each_step() -> None:
    when = prune.straight_through(0.5, steps=(1, 6))
    transform = prune.connections(when)
    for m in train(transform, 8):
        if m.count <= 6:
            scores = np.concatenate([np.abs(m.after[n]).ravel() for n in m.new])
            kept = np.concatenate([m.new[n].ravel() for n in m.new])
            np.testing.assert_array_equal(kept, ~smallest(scores, 40))
        for n, expected in dense_gradient(m).items():
            np.testing.assert_allclose(m.grads[n], expected, rtol=1e-4, atol=1e-5)
        for n in PRUNED:
            # From the end on, masks are fixed and only kept weights are trained.
            fixed = m.count > 6
            expected = m.grads[n] * m.old[n] if fixed else m.grads[n]
            np.testing.assert_array_equal(m.trained[n], expected)
            assert not fixed or (m.new[n] == m.old[n]).all()


def test_a_straight_through_mask_of_two_in_four() -> None:
    when = prune.straight_through(0.5, steps=(0, 4))
    for m in train(prune.connections(when, pattern="2:4", sites="down"), 5):
        groups = m.new["down"].reshape(2, 4, 4)
        np.testing.assert_array_equal(groups.sum(1), 2)


# Cyclic


def test_cyclic_phases_alternate_and_the_last_is_sparse() -> None:
    when = prune.cyclic(0.75, steps=(2, 9), sparse=2, dense=3)
    sparse = []
    for m in train(prune.connections(when), 11):
        sparse.append(zeros(m.new))
        for n in PRUNED:
            back = m.new[n] & ~m.old[n]
            assert (m.after[n][back] == 0).all()
            assert (m.moments[0].trace[n][back] == 0).all()
    # Dense to step 2; sparse 2, 3; dense 4 to 6; sparse 7, 8; from 9 on for good.
    assert sparse == [0, 60, 60, 0, 0, 0, 60, 60, 60, 60, 60]


def test_a_dense_phase_that_is_cut_short_ends_sparse() -> None:
    when = prune.cyclic(0.5, steps=(0, 6), sparse=2, dense=9)
    counts = [zeros(m.new) for m in train(prune.connections(when), 7)]
    assert counts == [40, 0, 0, 0, 0, 40, 40]


# Exchange of connections


def exchanged(m: Moment, n: str, fraction: float, growth: np.ndarray) -> np.ndarray:
    """Evci et al. 2020, algorithm 1, for one layer."""
    kept = m.old[n]
    moved = int(np.floor(np.float32(fraction) * kept.sum()))
    scores = np.where(kept, np.abs(m.after[n]), -np.inf)
    staying = ~smallest(scores, int((~kept).sum()) + moved)
    candidates = np.where(staying, -np.inf, growth)
    return staying | ~smallest(candidates, growth.size - moved)


@pytest.mark.parametrize("scope", ["erk", "global"])
def test_rigl_exchanges_the_smallest_for_the_largest_gradients(scope: str) -> None:
    when = prune.rigl(0.6, steps=(1, 11), every=3, drop=0.5)
    grown = 0
    for m in train(prune.connections(when, scope=scope), 12):
        assert zeros(m.new) == round(0.6 * 80)
        for n in PRUNED:
            np.testing.assert_array_equal(m.trained[n], m.grads[n] * m.old[n])
            if m.count in (4, 7, 10):
                fraction = 0.25 * (1.0 + np.cos(np.pi * (m.count - 1) / 10))
                expected = exchanged(m, n, fraction, np.abs(m.grads[n]))
                np.testing.assert_array_equal(m.new[n], expected)
                back = m.new[n] & ~m.old[n]
                grown += int(back.sum())
                assert (m.grads[n][back] != 0).all()
                assert (m.after[n][back] == 0).all()
                assert (m.moments[0].trace[n][back] == 0).all()
            elif m.count > 1:
                np.testing.assert_array_equal(m.new[n], m.old[n])
        # What is not pruned is trained as ever.
        np.testing.assert_array_equal(m.trained["bias"], m.grads["bias"])
        assert (m.moments[0].trace["bias"] != 0).all()
    assert grown > 5


def test_moments_are_cleared_wherever_an_optimizer_keeps_them() -> None:
    mask = {"up": True, "bias": False, "down": True}
    masked = optax.masked(optax.adamw(0.01), mask)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), masked)
    when = prune.rigl(0.5, steps=(0, 9), every=2)
    with compress.promotion.default_promotion():
        for m in train(prune.connections(when, score="magnitude"), 4, optimizer):
            moments = [
                (str(keys), leaf)
                for keys, leaf in jax.tree_util.tree_leaves_with_path(m.moments)
                if "mu" in str(keys) or "nu" in str(keys)
            ]
            assert len(moments) == 4
            for n in PRUNED:
                for _, leaf in [x for x in moments if n in x[0]]:
                    assert (leaf[~m.old[n]] == 0).all()
                    assert (leaf[m.old[n]] != 0).any()


def test_random_regrowth_keeps_each_layers_count() -> None:
    when = prune.sparse_evolution(0.5, steps=(0, 6), every=2, drop=0.4)
    for m in train(prune.connections(when, scope="uniform"), 7):
        for n in PRUNED:
            assert (~m.new[n]).sum() == m.new[n].size // 2
            back, gone = m.new[n] & ~m.old[n], m.old[n] & ~m.new[n]
            assert (m.after[n][back] == 0).all()
            assert (m.moments[0].trace[n][back] == 0).all()
            if m.count in (2, 4, 6):
                moved = int(0.4 * (m.new[n].size // 2))
                kept = np.where(m.old[n], np.abs(m.after[n]), np.inf)
                assert smallest(kept, moved)[gone].all()
                assert 0 < back.sum() == gone.sum() <= moved
            else:
                assert not back.any()


def test_what_grows_at_random_is_a_function_of_the_seed_and_the_step() -> None:
    params = {n: jnp.ones_like(p) for n, p in make_params().items()}

    def grown(seed: int, *steps: int) -> list[np.ndarray]:
        when = prune.sparse_evolution(0.5, steps=(0, 9), every=2, seed=seed)
        transform = prune.connections(when, sites="up")
        state = compress.init(forward, transform, params, X)
        update = jax.jit(lambda s: compress.update(transform, s, params, params))
        starts = [state._replace(step=jnp.int32(step - 1)) for step in steps]
        return [np.asarray(update(s).memory.masks["up"]) for s in starts]

    first, again, later = grown(0, 2, 2, 4)
    (other,) = grown(1, 2)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first != later).any()


# Fixed


def test_fixed_masks_stay_and_only_kept_weights_are_trained() -> None:
    masks = {"up": np.random.default_rng(0).random((6, 8)) < 0.5}
    for m in train(prune.fixed(masks), 3):
        np.testing.assert_array_equal(m.new["up"], masks["up"])
        assert (m.grads["up"][~masks["up"]] == 0).all()
        assert (m.grads["down"] != 0).all()


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({}, "there are no masks"),
        ({"pu": np.ones((6, 8), bool)}, r'no parameter "pu"\. The nearest: up'),
        ({"up": np.ones((8, 6), bool)}, r"the mask is bool\(8, 6\), the parameter"),
        ({"up": np.ones((6, 8))}, "Give bool of the same shape"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compress.init(forward, prune.fixed(masks), make_params(), X)


# Settings


def falling() -> Any:
    return ramp(0.8, 0.2, steps=(0, 5))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: prune.connections(), "there is no sparsity"),
        (lambda: prune.connections(falling()), r"prune\.connections: .*falls.*rise"),
        (lambda: prune.gradual(falling()), r"prune\.gradual: .*falls"),
        (lambda: prune.gradual(0.5, every=0), "every=0 must be at least 1"),
        (lambda: prune.periodic(0.5, steps=(4, 4), every=2), "0 <= first < last"),
        (lambda: prune.periodic(1.5, steps=(0, 4), every=2), "below 1"),
        (
            lambda: prune.straight_through(ramp(0.0, 0.5, steps=(0, 9)), steps=(0, 8)),
            r"the ramp at steps \(0, 9\) must be within steps=\(0, 8\)",
        ),
        (
            lambda: prune.cyclic(0.5, steps=(0, 4), sparse=4, dense=2),
            "no dense phase fits.*Let them end after 4",
        ),
        (lambda: prune.cyclic(0.5, steps=(0, 9), sparse=0, dense=2), "sparse=0 must"),
        (lambda: prune.rigl(0.5, steps=(0, 9), every=2, drop=0.0), "drop=0.0 must"),
        (
            lambda: prune.rigl(ramp(0.0, 0.5, steps=(0, 2)), steps=(0, 9), every=2),
            "must be a number.*Use prune.gradual",
        ),
        (lambda: prune.connections(0.5, min_kept=-1), "must not be negative"),
        (
            lambda: prune.connections(0.4, pattern="2:4"),
            '"2:4" is a sparsity of 0.5, not 0.4',
        ),
        (
            lambda: prune.connections(pattern="2:4", scope="erk"),
            "scope='erk' has no meaning.*Leave scope out",
        ),
        (
            lambda: prune.connections(
                prune.rigl(0.5, steps=(0, 9), every=2), pattern="2:4"
            ),
            "too small to exchange.*Use prune.straight_through",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
