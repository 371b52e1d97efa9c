"""What the proofs of structured pruning share: models with units removed by hand."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from compress.sites import Group, Groups, flat_paths

Keep = dict[str, np.ndarray]


def random_keep(groups: Groups, seed: int = 0) -> Keep:
    """About half of the units of every free group."""
    rng = np.random.default_rng(seed)
    return {
        group.name: np.sort(
            rng.choice(group.size, max(1, group.size // 2), replace=False)
        )
        for group in groups.free
    }


def edit(
    params: Any,
    groups: Groups,
    keep: Mapping[str, np.ndarray],
    change: Callable[[Group, Any, np.ndarray], np.ndarray],
) -> Any:
    """Parameters with `change(group, member, slice)` at every removed unit."""
    arrays = dict(zip(flat_paths(params), map(np.array, jax.tree.leaves(params))))
    for name, kept in keep.items():
        group = groups[name]
        removed = np.setdiff1d(np.arange(group.size), kept)
        for member in group.members:
            at: list[Any] = [slice(None)] * arrays[member.path].ndim
            at[member.axis] = member.indices[removed].ravel()
            old = arrays[member.path][tuple(at)]
            arrays[member.path][tuple(at)] = change(group, member, old)
    return jax.tree.unflatten(
        jax.tree.structure(params), list(map(jnp.asarray, arrays.values()))
    )


def is_closed(group: Group) -> bool:
    """Whether its units must be zero, not only unread, to be without effect."""
    return group.summed is not None or group.kind == "depth"


def readers_zero_and_garbage_elsewhere(
    params: Any, groups: Groups, keep: Mapping[str, np.ndarray]
) -> Any:
    """Nothing reads the removed units; what writes them writes anything."""
    rng = np.random.default_rng(7)

    def unread(group: Group, member: Any, old: np.ndarray) -> np.ndarray:
        return np.zeros_like(old) if member.reads or is_closed(group) else old

    def garbage(group: Group, member: Any, old: np.ndarray) -> np.ndarray:
        new = rng.normal(0, 5, old.shape).astype(old.dtype)
        # What another removed group reads there stays zero.
        return np.where(old == 0, old, new)

    return edit(edit(params, groups, keep, unread), groups, keep, garbage)


def largest(tree: Any) -> float:
    """The largest magnitude in a pytree."""
    return max(float(np.abs(x).max(initial=0)) for x in jax.tree.leaves(tree))


def difference(a: Any, b: Any) -> float:
    """The largest difference between two pytrees."""
    return largest(jax.tree.map(lambda x, y: np.asarray(x) - np.asarray(y), a, b))


def alone_and_together(keep: Keep) -> Sequence[Keep]:
    """Each group alone, and all of them."""
    return [*({name: kept} for name, kept in keep.items()), keep]
