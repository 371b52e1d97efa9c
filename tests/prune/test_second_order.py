"""SparseGPT: the equations in float64, the optimum where it is one, hard Hessians."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compress.prune.second_order import Grid, inverse_factor, second_order

RANDOM = np.random.default_rng(0)
OUTPUTS, INPUTS = 6, 20


def correlated(samples: int = 60, inputs: int = INPUTS) -> np.ndarray:
    """Inputs that partly say the same."""
    mixing = RANDOM.standard_normal((inputs, inputs)) + 2 * np.eye(inputs)
    return RANDOM.standard_normal((samples, inputs)) @ mixing


X = correlated()
W = RANDOM.standard_normal((OUTPUTS, INPUTS))
H = X.T @ X


def solve(w: Any, h: Any, grid: Grid | None = None, **settings: Any) -> Any:
    """The solution of one problem, as NumPy arrays."""
    stacked = (jnp.asarray(np.asarray(x, np.float32))[None] for x in (w, h))
    solution = second_order(*stacked, grid, **settings)
    return type(solution)(*(np.asarray(x)[0] for x in solution))


def damped(h: Any, damping: float = 0.01) -> np.ndarray:
    return h + damping * np.diagonal(h).mean() * np.eye(len(h))


def reference(
    w: np.ndarray, block: int, sparsity: float, scale: Any = None, limit: int = 7
) -> tuple[np.ndarray, np.ndarray]:
    """Optimal brain surgeon a column at a time: each inverse is made from scratch.

    The Hessian of the columns not yet fixed is a corner of H, and its inverse says what
    removing the first of them costs and how the others make up for it.
    """
    h, left = damped(H), w.copy()
    fixed, mask = np.zeros_like(w), np.ones(w.shape, bool)
    inverses = [np.linalg.inv(h[j:, j:]) for j in range(w.shape[1])]
    for j in range(w.shape[1]):
        if j % block == 0:
            columns = range(j, min(j + block, w.shape[1]))
            costs = np.stack(
                [left[:, k] ** 2 / inverses[k][0, 0] for k in columns], axis=1
            )
            before, after = (round(sparsity * len(w) * k) for k in (j, columns.stop))
            smallest = np.argsort(costs, axis=None)[: after - before]
            mask[:, j : columns.stop].flat = ~np.isin(np.arange(costs.size), smallest)
        value = left[:, j]
        if scale is not None:
            value = np.clip(np.round(value / scale), -limit, limit) * scale
        fixed[:, j] = np.where(mask[:, j], value, 0.0)
        moved = (left[:, j] - fixed[:, j]) / inverses[j][0, 0]
        left[:, j:] -= moved[:, None] * inverses[j][0][None]
    return fixed, mask


@pytest.mark.parametrize("block", [8, 128])
def test_it_is_optimal_brain_surgeon_column_by_column(block: int) -> None:
    solution = solve(W, H, block=block, sparsity=0.45)
    weights, mask = reference(W, min(block, INPUTS), 0.45)
    np.testing.assert_array_equal(solution.mask, mask)
    np.testing.assert_allclose(solution.weights, weights, atol=1e-4)  # float32


def test_rounding_in_the_same_pass_is_part_of_the_equations() -> None:
    scale = np.abs(W).max(1) / 7
    each = np.repeat(scale[:, None], INPUTS, 1)[None].astype(np.float32)
    grid = Grid(jnp.asarray(each), jnp.zeros(each.shape, bool), jnp.full((1,), 7.0))
    solution = solve(W, H, grid, block=8, sparsity=0.45)
    weights, mask = reference(W, 8, 0.45, scale)
    np.testing.assert_array_equal(solution.mask, mask)
    np.testing.assert_allclose(solution.weights, weights, atol=1e-5)


def test_the_weights_that_stay_are_the_least_squares_optimum() -> None:
    # All that is pruned comes before all that stays, which then is free to move.
    pruned = INPUTS // 2
    w = W * np.where(np.arange(INPUTS) < pruned, 1e-3, 10.0)
    solution = solve(w, H, sparsity=0.5)
    assert not solution.mask[:, :pruned].any()
    h = damped(H)
    best = (
        w[:, pruned:]
        + np.linalg.solve(
            h[pruned:, pruned:], h[pruned:][:, :pruned] @ w[:, :pruned].T
        ).T
    )
    np.testing.assert_allclose(solution.weights[:, pruned:], best, rtol=1e-4)


@pytest.mark.parametrize(("n", "m"), [(1, 4), (4, 5)])
def test_n_of_m_holds_in_every_group(n: int, m: int) -> None:
    solution = solve(W, H, n_of_m=(n, m), block=6)
    kept = solution.mask.reshape(-1, m).sum(1)
    np.testing.assert_array_equal(kept, n)
    np.testing.assert_array_equal(solution.weights[~solution.mask], 0.0)
    assert (solution.weights[solution.mask] != 0.0).all()


@pytest.mark.parametrize("sparsity", [0.0, 0.013, 0.9])
def test_the_number_of_zeros_is_exact(sparsity: float) -> None:
    tied = np.ones_like(W)
    solution = solve(tied, H, sparsity=sparsity, block=8)
    assert (~solution.mask).sum() == round(sparsity * W.size)


def test_each_group_is_solved_alone() -> None:
    other = correlated()
    hessians = jnp.asarray(np.stack([H, other.T @ other]), jnp.float32)
    both = second_order(jnp.asarray(np.stack([W, 2 * W]), jnp.float32), hessians)
    alone = solve(2 * W, hessians[1])
    np.testing.assert_array_equal(both.mask[1], alone.mask)
    np.testing.assert_allclose(both.weights[1], alone.weights, atol=1e-4)


# Hard Hessians


def test_weights_of_dead_inputs_go_first_and_the_others_stay_as_they_are() -> None:
    x = X * (np.arange(INPUTS) % 4 != 0)  # every fourth input is dead
    dead = np.arange(INPUTS) % 4 == 0
    large = np.where(dead, 100.0, W)
    solution = solve(large, x.T @ x, sparsity=0.25)
    np.testing.assert_array_equal(solution.mask, np.tile(~dead, (OUTPUTS, 1)))
    np.testing.assert_allclose(solution.weights[:, ~dead], W[:, ~dead], rtol=1e-5)
    fewer = solve(large, x.T @ x, sparsity=0.1)
    kept = fewer.mask & dead
    assert kept.any()
    np.testing.assert_allclose(fewer.weights[kept], 100.0, rtol=1e-5)


def test_without_any_input_the_magnitude_decides() -> None:
    solution = solve(W, np.zeros_like(H))
    assert np.abs(W)[~solution.mask].max() < np.abs(W)[solution.mask].min()
    np.testing.assert_allclose(
        solution.weights[solution.mask], W[solution.mask], rtol=1e-5
    )


def test_damping_is_raised_until_the_hessian_can_be_factored() -> None:
    few = X[:3]  # rank 3 of 20
    solution = solve(W, few.T @ few, damping=0.0)
    assert 0.0 < solution.damping < 0.1
    assert np.isfinite(solution.weights).all()
    assert solve(W, H, damping=0.02).damping == np.float32(0.02)


def test_the_factor_is_that_of_the_damped_inverse() -> None:
    hessian, damping = jnp.asarray(H, jnp.float32), jnp.float32(0.01)
    factor, used = jax.jit(inverse_factor)(hessian, damping)
    factor = np.asarray(factor, np.float64)
    assert used == np.float32(0.01)
    np.testing.assert_array_equal(factor, np.triu(factor))
    np.testing.assert_allclose(factor.T @ factor @ damped(H), np.eye(INPUTS), atol=1e-4)
