"""Patterns: which connections go together, as units of a parameter's layers."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp

from compress.annotations import Array, Bool, Float
from compress.prune.weights import Weight


class Pattern(NamedTuple):
    """What is pruned as a whole, and what is ranked together.

    The units of a parameter stand in rows that are ranked each alone, unless the scope
    ranks more together: one row for each layer, or for N:M one for each group.

    Attributes:
      name: For messages.
      shape: `(weight) -> (rows, units)`.
      units: `(scores, weight) -> [rows, units]`, the mean score of each unit.
      spread: `([rows, units], weight) -> ` the same for each connection.
      check: `(weight, user)`; raises where the pattern does not fit.
      kept: (N, M) of a pattern that keeps N of each M; its sparsity is given by that.
    """

    name: str
    shape: Callable[[Weight], tuple[int, int]]
    units: Callable[[Array, Weight], Array]
    spread: Callable[[Array, Weight], Array]
    check: Callable[[Weight, str], None]
    kept: tuple[int, int] | None = None


def unstructured() -> Pattern:
    """Any connection."""
    return Pattern(
        "unstructured",
        shape=lambda weight: (weight.rows, weight.size),
        units=lambda scores, weight: weight.in_rows(scores),
        spread=lambda kept, weight: weight.from_rows(kept),
        check=lambda weight, user: None,
    )


def n_m(n: int, m: int) -> Pattern:
    """N of each M connections in a row along the input axis of a site are kept.

    In a convolution they follow one another along the input channels, at one position
    of its window, as hardware that skips zeros wants them.

    Source: Mishra et al. 2021, https://arxiv.org/abs/2104.08378

    Raises:
      ValueError: If N is not at least 1 and below M.
    """
    if not 1 <= n < m:
        raise ValueError(
            f'prune: pattern="{n}:{m}" must keep at least 1 and fewer than {m} of each '
            f"{m}."
        )
    return Pattern(
        f"{n}:{m}",
        shape=lambda weight: (weight.rows * weight.size // m, m),
        units=lambda scores, weight: weight.as_matrix(scores).reshape(-1, m),
        spread=_ungrouped,
        check=partial(_check_groups, m),
        kept=(n, m),
    )


def block(rows: int, columns: int) -> Pattern:
    """Blocks of the matrix [output x contracting] of a site.

    The columns of a convolution are the input channels at the first position of its
    window, then at the second, ...

    Raises:
      ValueError: If a side is not positive.
    """
    if rows < 1 or columns < 1:
        raise ValueError(f"prune: block=[{rows}, {columns}] must be positive.")
    return Pattern(
        f"block {rows}x{columns}",
        shape=lambda weight: (weight.rows, weight.size // (rows * columns)),
        units=partial(_block_means, (rows, columns)),
        spread=partial(_blocks_spread, (rows, columns)),
        check=partial(_check_blocks, (rows, columns)),
    )


def channel() -> Pattern:
    """Whole output channels of a site: everything that one of its results is made of.

    As masks: nothing gets smaller. What can be removed is found by
    `compress.find_groups`.
    """
    return Pattern(
        "channel",
        shape=lambda weight: (weight.rows, weight.size_of(weight.output)),
        units=lambda scores, weight: weight.as_matrix(scores).mean(2),
        spread=lambda kept, weight: _fill(kept[:, :, None], weight),
        check=_check_axes,
    )


def row() -> Pattern:
    """Whole inputs of a site: what one row of a kernel [in, out] is multiplied with."""
    return Pattern(
        "row",
        shape=lambda weight: (
            weight.rows,
            weight.size // weight.size_of(weight.output),
        ),
        units=lambda scores, weight: weight.as_matrix(scores).mean(1),
        spread=lambda kept, weight: _fill(kept[:, None, :], weight),
        check=_check_axes,
    )


def as_pattern(pattern: "str | Mapping[str, Sequence[int]] | Pattern") -> Pattern:
    """A pattern by its name: `unstructured`, `channel`, `2:4`, `{"block": [4, 4]}`.

    Raises:
      ValueError: If there is none of that name.
    """
    if isinstance(pattern, Pattern):
        return pattern
    if isinstance(pattern, Mapping):
        if set(pattern) == {"block"} and len(pattern["block"]) == 2:
            return block(*pattern["block"])
    elif pattern in _PLAIN:
        return _PLAIN[pattern]()
    elif ratio := re.fullmatch(r"(\d+):(\d+)", pattern):
        return n_m(int(ratio[1]), int(ratio[2]))
    raise ValueError(
        f"prune: pattern={pattern!r} must be one of {tuple(_PLAIN)}, N:M such as "
        '"2:4", or {"block": [rows, columns]}.'
    )


_PLAIN = {"unstructured": unstructured, "channel": channel, "row": row}


def _fill(kept: Array, weight: Weight) -> Bool[Array, "..."]:
    outputs = weight.size_of(weight.output)
    whole = (weight.rows, outputs, weight.size // outputs)
    return weight.from_matrix(jnp.broadcast_to(kept, whole))


def _ungrouped(kept: Array, weight: Weight) -> Bool[Array, "..."]:
    return weight.from_matrix(
        kept.reshape(weight.rows, weight.size_of(weight.output), -1)
    )


def _block_means(
    sides: tuple[int, int], scores: Array, weight: Weight
) -> Float[Array, "rows units"]:
    (a, b), matrix = sides, weight.as_matrix(scores)
    rows, outputs, columns = matrix.shape
    blocks = matrix.reshape(rows, outputs // a, a, columns // b, b)
    return blocks.mean((2, 4)).reshape(rows, -1)


def _blocks_spread(
    sides: tuple[int, int], kept: Array, weight: Weight
) -> Bool[Array, "..."]:
    (a, b), outputs = sides, weight.size_of(weight.output)
    blocks = kept.reshape(weight.rows, outputs // a, 1, -1, 1)
    whole = (weight.rows, outputs // a, a, blocks.shape[3], b)
    filled = jnp.broadcast_to(blocks, whole)
    return weight.from_matrix(filled.reshape(weight.rows, outputs, -1))


def _check_axes(weight: Weight, user: str) -> None:
    if weight.mixed:
        raise ValueError(
            f'{user} "{weight.path}": {", ".join(weight.names)} read it along '
            "different axes, so it has no one matrix. Exclude it, or prune it "
            "unstructured."
        )


def _check_groups(m: int, weight: Weight, user: str) -> None:
    _check_axes(weight, user)
    _check_side(weight, weight.inputs, m, user, "the input")


def _check_blocks(sides: tuple[int, int], weight: Weight, user: str) -> None:
    _check_axes(weight, user)
    _check_side(weight, weight.output, sides[0], user, "the output")
    columns = (*weight.window, *weight.inputs)
    _check_side(weight, columns, sides[1], user, "the contracting")


def _check_side(
    weight: Weight, axes: Sequence[int], by: int, user: str, what: str
) -> None:
    size = math.prod(weight.shape[axis] for axis in axes)
    if size % by == 0:
        return
    divisors = [str(d) for d in range(1, size + 1) if size % d == 0]
    shown: Any = axes[0] if len(axes) == 1 else tuple(axes)
    raise ValueError(
        f'{user} "{weight.path}": {what} axis {shown} of {weight.shape} has {size} '
        f"entries, which {by} does not divide. These do: {', '.join(divisors)}. Use "
        "one of them, or exclude the site."
    )
