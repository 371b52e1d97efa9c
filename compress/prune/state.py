"""What pruning remembers, and what it tells and promises about it."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from compress.annotations import Array, Bool, Int, PyTree
from compress.interpret import Quantized
from compress.prune.masking import sparsity_by_path, sparsity_of
from compress.prune.scopes import Part
from compress.sites import flatten_parameters


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Layout:
    """The parameters that are pruned, as the trace has shown them."""

    parts: tuple[Part, ...] = ()


class ConnectionsState(NamedTuple):
    """What pruning remembers.

    Attributes:
      masks: By path of a pruned parameter; True where the weight is kept.
      score: What the score remembers.
      num_nan: How many scores were NaN when masks were chosen, so far.
      layout: The structure of those parameters.
    """

    masks: dict[str, Bool[Array, "..."]]
    score: PyTree
    num_nan: Int[Array, ""]
    layout: Layout


def metrics_of(memory: ConnectionsState, step: Array) -> dict[str, Array]:
    """The sparsity of all masks together, and of each."""
    return {"sparsity": sparsity_of(memory.masks), **sparsity_by_path(memory.masks)}


def check_masks(
    user: str, memory: ConnectionsState, params: PyTree, seen: PyTree, step: Any
) -> list[str]:
    """Whatever acts after pruning, pruned weights are seen as zero."""
    paths, leaves, _ = flatten_parameters(seen)
    values = dict(zip(paths, map(_values, leaves), strict=True))
    problems = []
    for path, mask in memory.masks.items():
        revived = np.count_nonzero(np.asarray(values[path])[~np.asarray(mask)])
        if revived:
            problems.append(
                f'{user} "{path}": {revived} pruned weights are not zero at step '
                f"{step}. A transform after it changed them."
            )
    if memory.num_nan > 0:
        problems.append(
            f"{user}: {int(memory.num_nan)} scores were NaN when masks were chosen up "
            f"to step {step}. Find what makes weights or gradients NaN: a lower "
            "learning rate, or clipping, may help."
        )
    return problems


def _values(leaf: Any) -> Any:
    return leaf.qvalue if isinstance(leaf, Quantized) else leaf
