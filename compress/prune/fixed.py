"""Fine-tuning with masks that are given."""

import difflib
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from compress.annotations import PyTree
from compress.prune.masking import apply_masks
from compress.prune.state import ConnectionsState, Layout, check_masks, metrics_of
from compress.sites import Sites, parameter_paths
from compress.transform import Transform


def fixed(masks: Mapping[str, Any]) -> Transform:
    """Keeps given masks for good: fine-tuning after pruning.

    Args:
      masks: Arrays of bool by path of a parameter, shaped like it; True where the
        weight is kept.

    Raises:
      ValueError: At `init`, if a mask does not fit a parameter.
    """
    if not masks:
        raise ValueError("prune.fixed: there are no masks. Give {path: mask}.")
    user = "prune.fixed"
    return Transform(
        name=user,
        init=partial(_init, masks),
        parameters=lambda memory, params, step: apply_masks(params, memory.masks),
        metrics=metrics_of,
        check=partial(check_masks, user),
        plan=partial(_plan, masks),
        provides=frozenset({"mask"}),
        preserves=frozenset({"mask"}),
    )


def _init(masks: Mapping[str, Any], params: PyTree, sites: Any) -> Any:
    by_path = parameter_paths(params)
    for path, mask in masks.items():
        if path not in by_path:
            nearest = difflib.get_close_matches(path, by_path, n=3, cutoff=0.0)
            raise ValueError(
                f'prune.fixed: there is no parameter "{path}". The nearest: '
                f"{', '.join(nearest)}."
            )
        if mask.shape != by_path[path].shape or mask.dtype != bool:
            raise ValueError(
                f'prune.fixed "{path}": the mask is {mask.dtype}{mask.shape}, the '
                f"parameter {by_path[path].shape}. Give bool of the same shape."
            )
    arrays = {path: jnp.asarray(mask) for path, mask in masks.items()}
    return ConnectionsState(arrays, (), jnp.zeros((), jnp.int32), Layout())


def _plan(masks: Mapping[str, Any], sites: Sites) -> dict[str, str]:
    return {
        site.name: f"pruned {1 - np.mean(np.asarray(masks[path])):.0%}, for good"
        for path, found in sites.by_path().items()
        for site in found
        if path in masks
    }
