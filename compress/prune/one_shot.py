"""Pruning a trained model at once, without training it again.

A pattern of weights is removed from each site by one of three scores; the second-order
one also moves the weights that stay, and can round them to integers in the same pass.
Sources: `wanda.py`, `second_order.py`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compress.annotations import Bool, PyTree
from compress.interpret import trace
from compress.prune.grid import Quantizer, WeightGrid, quantizer_of
from compress.prune.inputs import Refused, Rows, input_moments
from compress.prune.one_shot_checks import (
    SCORES,
    Asked,
    Settings,
    check_settings,
    checked_batches,
    choose,
    refusals,
)
from compress.prune.second_order import Grid, second_order
from compress.prune.wanda import keep_n_of_m, keep_per_output, wanda_scores
from compress.sites import find_sites_in, flat_paths, parameter_paths
from compress.transform import Transform, check_finite


class Record(NamedTuple):
    """What was done to one parameter.

    Attributes:
      path: Of the parameter.
      weights: Its elements.
      pruned: How many of them were pruned.
      error: Squared change of what its sites give on the calibration data, as a
        fraction of the squares; None where the score does not tell.
      damping: The largest used; None without a Hessian.
      notes: What did not go as asked: why it was left dense, damping that was raised.
    """

    path: str
    weights: int
    pruned: int
    error: float | None = None
    damping: float | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f'prune.one_shot "{self.path}": {self.pruned} of {self.weights} pruned'
        if self.error is not None:
            text += f", its outputs change by {self.error:.2%} of their squares"
        return "; ".join([text, *self.notes])


class Pruned(NamedTuple):
    """A pruned model.

    Attributes:
      params: With zeros where pruned.
      masks: By path of a pruned parameter; True where the weight is kept.
      records: One for each parameter that was to be pruned, in program order.
    """

    params: PyTree
    masks: dict[str, Bool[np.ndarray, "..."]]
    records: tuple[Record, ...]


class _Result(NamedTuple):
    """One parameter: its weights, its mask (None: left dense) and its record."""

    weights: Any
    mask: Any
    record: Record


def one_shot(
    forward: Callable[..., Any],
    params: PyTree,
    batches: Iterable[Any],
    *,
    score: str = "second_order",
    sparsity: float | None = None,
    pattern: str = "unstructured",
    quantize: Transform | None = None,
    sites: str | Sequence[str] = "**",
    exclude: str | Sequence[str] = (),
    rank: str | None = None,
    damping: float = 0.01,
    block: int | None = None,
    sequential: bool = False,
    model_state: PyTree = None,
) -> Pruned:
    """Prunes the weights of sites, each site (and scanned layer) to the same sparsity.

    The number of zeros is exact in each layer of each site. Embeddings are pruned only
    where they are named exactly. A parameter whose inputs cannot be told apart is left
    dense, with the reason in its record.

    Args:
      forward: `(params, *inputs) -> outputs`, any JAX function; with a `model_state`,
        `(params, model_state, *inputs)`.
      params: Trained parameters.
      batches: Inputs of `forward`, a tuple each or one array; drawn from the training
        data. The first one also serves to find the sites.
      score: `magnitude` (the smallest weights of a site), `wanda` (for each output,
        the smallest |w| ||x||) or `second_order` (SparseGPT).
      sparsity: Fraction of zeros, in [0, 1); by default 0.5, or what an N:M gives.
      pattern: `unstructured`, or `2:4` and the like: 2 are kept of each 4 neighbours
        along the innermost contracted axis of the parameter; of a convolution, along
        its input channels.
      quantize: A transform that quantizes weights, such as `fake_quant`, to round the
        weights for in the same pass; only with `second_order`. Applied to the result,
        it finds the same integers.
      sites: Patterns; see `compress.sites.matching_sites`.
      exclude: Likewise, of sites that stay dense.
      rank: What the smallest scores are sought in without N:M: `layer`, or `output`,
        each row alone. By default `output` for `wanda`, as published, and `layer` for
        `magnitude`. Not of `second_order`, which has blocks.
      damping: Added to the diagonal of the Hessian, as a fraction of its mean.
      block: Columns whose mask the second-order score chooses together. By default
        128, as published, but an eighth of the inputs where there are fewer than
        1024 (at least 8): what the last columns lose, no later one makes up for.
      sequential: Observe the inputs of each parameter after those before it in the
        program were pruned, as SparseGPT does: a pass over the batches, and a
        compilation, for each. The layers of a scan are pruned together all the same.
        By default, all inputs are those of the dense model.
      model_state: Passed to `forward` as it is.

    Raises:
      ValueError: If a setting is out of range, a pattern matches nothing, an axis has
        no whole groups, or a parameter or batch is not finite.
    """
    asked = Asked(score, sparsity, pattern, rank, damping, block, quantize is not None)
    settings = check_settings(asked)
    check_finite(params)
    data = checked_batches(batches, model_state)
    program = trace(forward, params, *data[0])
    found = find_sites_in(program, params)
    by_path = choose(program, found, sites, exclude, settings)
    refused = refusals(program, found, by_path)
    usable = {path: uses for path, uses in by_path.items() if path not in refused}
    quantizer = (
        quantizer_of(quantize, forward, params, data[0], usable) if quantize else None
    )
    results: dict[str, _Result] = {}
    for paths in _passes(usable, sequential):
        wanted = [site for path in paths for site in usable[path]]
        kind = SCORES[settings.score]
        rows = input_moments(forward, params, wanted, data, kind)
        for path in paths:
            parts = [part for part in rows if part.path == path]
            results[path] = _prune_parameter(settings, path, params, parts, quantizer)
        params = _replaced(params, {path: results[path].weights for path in paths})
    records = {path: r.record for path, r in results.items()}
    records |= _left_dense(params, refused)
    if quantizer is not None:
        records = _confirm(quantizer, params, records)
    masks = {path: r.mask for path, r in results.items() if r.mask is not None}
    return Pruned(params, masks, tuple(records[path] for path in by_path))


def _passes(usable: Mapping[str, Any], sequential: bool) -> list[list[str]]:
    """The parameters whose inputs are observed together."""
    if sequential:
        return [[path] for path in usable]
    return [list(usable)] if usable else []


def _prune_parameter(
    settings: Settings,
    path: str,
    params: PyTree,
    parts: Sequence[Rows | Refused],
    quantizer: Quantizer | None,
) -> _Result:
    """Prunes one parameter; if it is to be rounded, on the grid of the pruned one.

    What stays grows to make up for what goes, and would be clipped on the dense grid.
    """
    leaf = parameter_paths(params)[path]
    result = _prune(settings, path, leaf, parts, None)
    if quantizer is None or path not in quantizer.paths or result.mask is None:
        return result
    grid = quantizer.grid(_replaced(params, {path: result.weights}), path)
    return _prune(settings, path, leaf, parts, grid)


def _prune(
    settings: Settings,
    path: str,
    leaf: Any,
    parts: Sequence[Rows | Refused],
    grid: WeightGrid | None,
) -> _Result:
    """Prunes one parameter, each part with its own inputs."""
    flat = np.array(leaf, np.float32).ravel()
    for reason in [_obstacle(settings, part) for part in parts]:
        if reason is not None:
            record = Record(path, flat.size, 0, notes=(f"left dense: {reason}",))
            return _Result(leaf, None, record)
    mask, error, notes = np.ones(flat.size, bool), _Error(), []
    for rows in [part for part in parts if isinstance(part, Rows)]:
        old = flat[rows.indices]
        new, kept, damping = _prune_rows(settings, old, rows, grid)
        flat[rows.indices], mask[rows.indices] = new, kept
        notes += _notes(settings, rows, damping)
        if damping is not None:
            error = error.add(old, new, rows.moment, damping)
    pruned, unique = int((~mask).sum()), tuple(dict.fromkeys(notes))
    record = Record(path, flat.size, pruned, error.relative, error.damping, unique)
    weights = jnp.asarray(flat.reshape(leaf.shape)).astype(leaf.dtype)
    return _Result(weights, jnp.asarray(mask.reshape(leaf.shape)), record)


class _Error(NamedTuple):
    """Squared outputs of what was pruned so far, and their change."""

    change: float = 0.0
    before: float = 0.0
    damping: float | None = None

    @property
    def relative(self) -> float | None:
        """The change as a fraction; None if no Hessian told it."""
        if self.damping is None:
            return None
        return self.change / self.before if self.before else 0.0

    def add(self, old: Any, new: Any, hessians: Any, damping: Any) -> "_Error":
        """With some more matrices."""
        return _Error(
            self.change + _output_squares(new - old, hessians),
            self.before + _output_squares(old, hessians),
            max(self.damping or 0.0, float(damping.max())),
        )


def _obstacle(settings: Settings, part: Rows | Refused) -> str | None:
    """Why a part cannot be pruned, or None."""
    if isinstance(part, Refused):
        return part.reason
    inputs = part.indices.shape[-1]
    if settings.n_of_m is not None and inputs % settings.n_of_m[1]:
        return f"a slice of it with {inputs} inputs has no whole N:M groups"
    return None


def _prune_rows(
    settings: Settings, weights: Any, rows: Rows, grid: WeightGrid | None
) -> tuple[Any, Any, Any]:
    """New weights, mask and damping of matrices `[groups, outputs, inputs]`."""
    if settings.score == "second_order":
        solution = second_order(
            jnp.asarray(weights),
            jnp.asarray(rows.moment),
            _grid_of_rows(grid, rows),
            sparsity=settings.sparsity,
            n_of_m=settings.n_of_m,
            damping=settings.damping,
            block=settings.block or _block(weights.shape[-1]),
        )
        new, mask, used = (np.asarray(x) for x in solution)
        return new, mask, used
    mask = np.asarray(_mask(settings, jnp.asarray(weights), rows.moment))
    return np.where(mask, weights, np.float32(0.0)), mask, None


def _block(inputs: int) -> int:
    """At least eight blocks: a transformer of 80 inputs lost 1.85 instead of 1.94."""
    return min(128, max(8, inputs // 8))


def _mask(settings: Settings, weights: Any, moment: Any) -> Any:
    """The mask by a score that leaves the other weights alone."""
    scores = jnp.abs(weights)
    if settings.score == "wanda":
        # Without any input at all, the magnitude decides.
        blank = ~(moment > 0.0).any(axis=-1, keepdims=True)
        scores = wanda_scores(weights, jnp.asarray(moment + blank.astype(np.float32)))
    if settings.n_of_m is not None:
        return keep_n_of_m(scores, *settings.n_of_m)
    if settings.rank == "output":
        return keep_per_output(scores, settings.sparsity)
    together = scores.reshape(len(scores), 1, -1)
    return keep_per_output(together, settings.sparsity).reshape(scores.shape)


def _grid_of_rows(grid: WeightGrid | None, rows: Rows) -> Grid | None:
    """A parameter's grid, laid out like its rows."""
    if grid is None:
        return None
    scale, anchor = grid.scale.ravel(), grid.anchor.ravel()
    limits = np.full(len(rows.indices), grid.limit, np.float32)
    return Grid(*map(jnp.asarray, (scale[rows.indices], anchor[rows.indices], limits)))


def _output_squares(weights: Any, hessians: Any) -> float:
    """The squared outputs of matrices, `tr(W H W^T)`."""
    squares = np.einsum("gik,gik->", weights @ hessians, weights, dtype=np.float64)
    return float(squares)


def _notes(settings: Settings, rows: Rows, damping: Any) -> list[str]:
    """What did not go as asked."""
    notes = []
    if rows.moment is not None:
        axes = tuple(range(1, rows.moment.ndim))
        blank = int((~rows.moment.any(axis=axes)).sum())
        if blank:
            notes.append(
                f"{blank} of {len(rows.moment)} layers, experts or channels had no "
                "input but zeros: ranked by magnitude"
            )
    if damping is not None and damping.max() > np.float32(settings.damping):
        notes.append(
            f"damping raised from {settings.damping:g} to {damping.max():g}: with less "
            "the Hessian cannot be factored in float32. Give more batches"
        )
    return notes


def _replaced(params: PyTree, weights: Mapping[str, Any]) -> PyTree:
    """The parameters with some of them changed."""
    named = zip(flat_paths(params), jax.tree.leaves(params), strict=True)
    leaves = [weights.get(path, leaf) for path, leaf in named]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def _left_dense(params: PyTree, reasons: Mapping[str, str]) -> dict[str, Record]:
    by_path = parameter_paths(params)
    return {
        path: Record(path, by_path[path].size, 0, notes=(f"left dense: {reason}",))
        for path, reason in reasons.items()
    }


def _confirm(
    quantizer: Quantizer, params: PyTree, records: Mapping[str, Record]
) -> dict[str, Record]:
    """Notes where the quantizer would move the weights that were rounded for it."""
    noted = dict(records)
    for path, count in quantizer.moved(params).items():
        record = records[path]
        if count and record.damping is not None:
            note = f"{count} weights are rounded again by {quantizer.name}"
            noted[path] = record._replace(notes=(*record.notes, note))
    return noted
