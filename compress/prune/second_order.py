"""SparseGPT: prunes a column at a time and lets the later columns make up for it.

Source: Frantar and Alistarh 2023, algorithm 1, https://arxiv.org/abs/2301.00774; the
rounding in the same pass is that of Frantar et al. 2022 (GPTQ),
https://arxiv.org/abs/2210.17323. With inputs X and Hessian H = X^T X, removing what is
left of weight w_j at a cost of w_j^2 / (H^-1)_jj and moving the rest of its row by
-w_j (H^-1)_j / (H^-1)_jj is the best one can do (optimal brain surgeon). Row j of the
upper factor U, H^-1 = U^T U, is what that takes once all columns before j are fixed.

Unlike there, U is made of one Cholesky factorisation of H backwards, which needs no
inverse of H; and a weight whose input is always zero keeps its value if it is not among
those pruned (they are the first to go), since calibration says nothing of it.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compress.annotations import Array, Bool, Float, Int
from compress.prune.select import keep_largest
from compress.prune.wanda import keep_n_of_m, split_evenly

_EXACT = jax.lax.Precision.HIGHEST
# Tenfold each time: beyond this the Hessian counts for nothing.
_MOST_DAMPING = 1e6


class Grid(NamedTuple):
    """The integers that weights are rounded to.

    Attributes:
      scale: Size of one step, for each weight.
      anchor: Weights that become the largest integer unless one before them in their
        row did: a quantizer that scales by the largest magnitude then finds this grid
        again.
      limit: The largest integer.
    """

    scale: Float[Array, "*groups outputs inputs"]
    anchor: Bool[Array, "*groups outputs inputs"]
    limit: Float[Array, "*groups"]


class Solution(NamedTuple):
    """Pruned weights.

    Attributes:
      weights: With zeros where pruned, the others updated, and rounded if asked for.
      mask: True where kept.
      damping: Used, as a fraction of the mean diagonal of the Hessian.
    """

    weights: Float[Array, "*groups outputs inputs"]
    mask: Bool[Array, "*groups outputs inputs"]
    damping: Float[Array, "*groups"]


def second_order(
    weights: Float[Array, "groups outputs inputs"],
    hessian: Float[Array, "groups inputs inputs"],
    grid: Grid | None = None,
    *,
    sparsity: float = 0.5,
    n_of_m: tuple[int, int] | None = None,
    damping: float = 0.01,
    block: int = 128,
) -> Solution:
    """Prunes each matrix, and moves the weights that stay to make up for it.

    Args:
      weights: A row per output.
      hessian: `X^T X` of their inputs.
      grid: To round to in the same pass.
      sparsity: Fraction of zeros in each matrix, exact; unused with `n_of_m`.
      n_of_m: How many of how many neighbours in a row are kept.
      damping: Added to the diagonal, as a fraction of its mean. Raised tenfold until
        the Hessian can be factored.
      block: Columns whose mask is chosen together, all rows at once.
    """
    plan = _Plan.of(weights.shape[-1], n_of_m, block)
    starts = range(0, weights.shape[-1], plan.block)
    widths = [min(plan.block, weights.shape[-1] - start) for start in starts]
    sizes = [weights.shape[1] * width for width in widths]
    counts = jnp.asarray(split_evenly(sparsity, sizes))
    fraction = jnp.asarray(damping, jnp.float32)
    return _solve_all(plan, counts, fraction, weights, hessian, grid)


class _Plan(NamedTuple):
    """How the columns are walked through.

    Attributes:
      block: Columns updated together.
      span: Columns whose mask is chosen together.
      n_of_m: See `second_order`.
    """

    block: int
    span: int
    n_of_m: tuple[int, int] | None

    @classmethod
    def of(cls, inputs: int, n_of_m: tuple[int, int] | None, block: int) -> "_Plan":
        """The plan for so many columns: whole groups in a block."""
        unit = n_of_m[1] if n_of_m else 1
        block = math.ceil(min(block, inputs) / unit) * unit
        return cls(block, unit if n_of_m else block, n_of_m)


# Not by sparsity and damping: one compilation serves all.
@partial(jax.jit, static_argnums=0)
def _solve_all(
    plan: _Plan,
    counts: Int[Array, "blocks"],
    damping: Float[Array, ""],
    weights: Float[Array, "groups outputs inputs"],
    hessian: Float[Array, "groups inputs inputs"],
    grid: Grid | None,
) -> Solution:
    # Small problems together: a depthwise convolution has one per channel.
    together = max(1, min(len(weights), 2**20 // weights.shape[-1] ** 2))
    solve = partial(_solve, plan, counts, damping)
    problems = (weights, hessian, grid)
    return jax.lax.map(lambda p: solve(*p), problems, batch_size=together)


class _Block(NamedTuple):
    """A block of columns while it is walked through.

    Attributes:
      weights: What is left to be fixed, updated so far.
      fixed: The weights that are done.
      errors: What each column leaves to those after it.
      mask: True where kept.
      reached: Rows that hold the largest integer already.
    """

    weights: Float[Array, "outputs block"]
    fixed: Float[Array, "outputs block"]
    errors: Float[Array, "outputs block"]
    mask: Bool[Array, "outputs block"]
    reached: Bool[Array, "outputs"]


class _Columns(NamedTuple):
    """What is known of a block's columns.

    Attributes:
      count: How many weights to prune; unused with N:M.
      factor: The block of U.
      dead: Inputs that are always zero.
      real: Not padding.
      grid: To round to.
    """

    count: Int[Array, ""]
    factor: Float[Array, "block block"]
    dead: Bool[Array, "block"]
    real: Bool[Array, "block"]
    grid: Grid | None


def _solve(
    plan: _Plan,
    counts: Int[Array, "blocks"],
    damping: Float[Array, ""],
    weights: Float[Array, "outputs inputs"],
    hessian: Float[Array, "inputs inputs"],
    grid: Grid | None,
) -> Solution:
    """One matrix."""
    outputs, inputs = weights.shape
    factor, used = inverse_factor(hessian, damping)
    width = len(counts) * plan.block
    wide = partial(_widened, width=width)
    upper = jax.lax.dynamic_update_slice(jnp.eye(width), factor, (0, 0))
    diagonal = jnp.diagonal(hessian)
    # Without any input at all, the magnitude decides.
    dead = wide((diagonal == 0.0) & (diagonal > 0.0).any())
    grid = grid and Grid(wide(grid.scale, 1.0), wide(grid.anchor), grid.limit)

    def step(number: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        left, fixed, mask, reached = carry
        start = number * plan.block
        take = partial(_take, start=start, size=plan.block)
        columns = _Columns(
            counts[number],
            take(take(upper, axis=0), axis=1),
            take(dead, axis=0),
            start + jnp.arange(plan.block) < inputs,
            grid and Grid(take(grid.scale), take(grid.anchor), grid.limit),
        )
        block = _walk_block(plan, columns, take(left), reached)
        rest = jnp.matmul(block.errors, take(upper, axis=0), precision=_EXACT)
        put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=1)
        return (
            left - rest,
            put(fixed, block.fixed),
            put(mask, block.mask),
            block.reached,
        )

    padded = wide(weights)
    carry = (padded, padded, jnp.ones(padded.shape, bool), jnp.zeros((outputs,), bool))
    _, fixed, mask, _ = jax.lax.fori_loop(0, len(counts), step, carry)
    return Solution(fixed[:, :inputs], mask[:, :inputs], used)


def inverse_factor(
    hessian: Float[Array, "inputs inputs"], damping: Float[Array, ""]
) -> tuple[Float[Array, "inputs inputs"], Float[Array, ""]]:
    """The upper U with `U^T U = (H + damping * mean(diag H) I)^-1`, and the damping.

    Of a dead input, whose row is zero, the diagonal counts as the mean. Damping is
    raised tenfold until all of U is finite.
    """
    diagonal = jnp.diagonal(hessian)
    live = jnp.sum(diagonal > 0.0)
    mean = jnp.sum(diagonal) / jnp.maximum(live, 1).astype(jnp.float32)
    mean = jnp.where(mean > 0.0, mean, 1.0)
    scaled = hessian / mean + jnp.diag((diagonal == 0.0).astype(jnp.float32))

    def factor(fraction: Array) -> Array:
        damped = scaled + fraction * jnp.eye(len(diagonal))
        # Backwards, H = R R^T has an upper R, and U is its inverse.
        upper = jnp.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
        eye = jnp.eye(len(diagonal))
        return jax.scipy.linalg.solve_triangular(upper, eye, lower=False)

    def attempt(state: tuple[Array, ...]) -> tuple[Array, ...]:
        _, _, fraction = state
        return factor(fraction), fraction, jnp.maximum(10.0 * fraction, 1e-6)

    def failed(state: tuple[Array, ...]) -> Array:
        return ~jnp.isfinite(state[0]).all() & (state[2] < _MOST_DAMPING)

    start = (jnp.full_like(hessian, jnp.nan), damping, damping)
    inverse, used, _ = jax.lax.while_loop(failed, attempt, start)
    return inverse / jnp.sqrt(mean), used


def _walk_block(
    plan: _Plan,
    columns: _Columns,
    weights: Float[Array, "outputs block"],
    reached: Bool[Array, "outputs"],
) -> _Block:
    """Chooses a mask every span of columns, and fixes its columns one by one."""

    def span(number: Array, block: _Block) -> _Block:
        start = number * plan.span
        kept = _choose(plan, columns, block.weights, start)
        mask = jax.lax.dynamic_update_slice_in_dim(block.mask, kept, start, axis=1)
        return jax.lax.fori_loop(
            start,
            start + plan.span,
            partial(_fix_column, columns),
            block._replace(mask=mask),
        )

    nothing = jnp.zeros_like(weights)
    start = _Block(weights, nothing, nothing, jnp.ones(weights.shape, bool), reached)
    return jax.lax.fori_loop(0, plan.block // plan.span, span, start)


def _choose(
    plan: _Plan, columns: _Columns, weights: Array, start: Array
) -> Bool[Array, "outputs span"]:
    """Keeps the weights whose removal costs most, w^2 / (H^-1)_jj."""
    cost = jnp.square(weights / jnp.diagonal(columns.factor)[None])
    cost = jnp.where(columns.dead[None], 0.0, cost)
    if columns.grid is not None:
        cost = jnp.where(columns.grid.anchor, jnp.inf, cost)
    if plan.n_of_m is not None:
        return keep_n_of_m(_take(cost, start=start, size=plan.span), *plan.n_of_m)
    cost = jnp.where(columns.real[None], cost, jnp.inf)
    return keep_largest(cost.ravel(), columns.count).reshape(cost.shape)


def _fix_column(columns: _Columns, at: Array, block: _Block) -> _Block:
    """Prunes and rounds one column; the later ones of its block make up for it."""
    column = partial(jax.lax.dynamic_index_in_dim, index=at, axis=1, keepdims=False)
    left, kept = column(block.weights), column(block.mask)
    value, reached = left, block.reached
    if columns.grid is not None:
        grid = Grid(
            column(columns.grid.scale), column(columns.grid.anchor), columns.grid.limit
        )
        value, reached = _rounded(grid, left, reached, kept)
    fixed = jnp.where(kept, value, 0.0)
    row = jax.lax.dynamic_index_in_dim(columns.factor, at, keepdims=False)
    error = (left - fixed) / row[at]
    return _Block(
        block.weights - error[:, None] * row[None],
        block.fixed.at[:, at].set(fixed),
        block.errors.at[:, at].set(error),
        block.mask,
        reached,
    )


def _rounded(
    grid: Grid, left: Array, reached: Array, kept: Array
) -> tuple[Array, Array]:
    """One column on its grid, and which rows have reached the largest integer."""
    # By the reciprocal, as quantizers do.
    integers = jnp.round(left * (1.0 / grid.scale))
    integers = jnp.clip(integers, -grid.limit, grid.limit)
    largest = jnp.where(left < 0.0, -grid.limit, grid.limit)
    integers = jnp.where(grid.anchor & ~reached, largest, integers)
    reached |= kept & (jnp.abs(integers) == grid.limit)
    return integers * grid.scale, reached


def _take(x: Array, *, start: Array, size: int, axis: int = 1) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, start, size, axis=axis)


def _widened(x: Array, fill: float = 0.0, *, width: int) -> Array:
    """With columns of `fill` up to a whole number of blocks."""
    missing = width - x.shape[-1]
    padding = [(0, 0)] * (x.ndim - 1) + [(0, missing)]
    return jnp.pad(x, padding, constant_values=np.asarray(fill, x.dtype))
