"""Which units are kept, as data: what `compress.shrink` takes and a file holds."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from compress.prune.structured.members import unit_shape
from compress.sites import Group

# By group that loses units, the sorted indices of those kept: [kept], or
# [layers, kept] where each layer keeps its own.
Keep = dict[str, np.ndarray]


def keep_of(ranked: Mapping[str, tuple[Group, np.ndarray, int]]) -> Keep:
    """What is left when the first so many units in order are gone.

    Args:
      ranked: By group name: the group, its units in ascending order of importance as
        `[rows, units]`, and how many go.
    """
    keep = {}
    for name, (group, order, gone) in ranked.items():
        kept = np.sort(order[:, gone:], axis=-1).astype(np.int32)
        keep[name] = kept[0] if group.layers is None else kept
    return keep


def sizes_of(keep: Mapping[str, np.ndarray]) -> dict[str, int]:
    """How many units each group keeps: its width."""
    return {name: int(np.shape(indices)[-1]) for name, indices in keep.items()}


def keep_to_json(keep: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """As lists of whole numbers, for a file."""
    return {name: np.asarray(keep[name]).tolist() for name in sorted(keep)}


def keep_from_json(content: Mapping[str, Any], groups: Iterable[Group]) -> Keep:
    """What `keep_to_json` wrote, checked against the groups of a model.

    Raises:
      ValueError: If a group is unknown, or its indices are not those of its units.
    """
    by_name = {group.name: group for group in groups}
    keep = {}
    for name, indices in content.items():
        if name not in by_name:
            raise ValueError(
                f'keep "{name}": no such group in this model. It has: '
                f"{', '.join(list(by_name)[:5])}, ... Use the keep of this model."
            )
        keep[name] = _checked(by_name[name], indices)
    return keep


def _checked(group: Group, indices: Any) -> np.ndarray:
    kept = np.asarray(indices)
    whole = unit_shape(group)
    right = (
        kept.ndim == len(whole)
        and kept.shape[:-1] == whole[:-1]
        and kept.size > 0
        and np.issubdtype(kept.dtype, np.integer)
        and (np.diff(kept, axis=-1) > 0).all()
        and kept.min() >= 0
        and kept.max() < group.size
    )
    if not right:
        raise ValueError(
            f'keep "{group.name}": {str(indices)[:60]} are not sorted indices of its '
            f"{group.size} units"
            + (f", a list for each of {group.layers} layers." if group.layers else ".")
            + " Use the keep of this model."
        )
    return kept.astype(np.int32)
