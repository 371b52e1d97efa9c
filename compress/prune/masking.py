"""What masks do to parameters."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from compress.annotations import Array, Bool, Float, PyTree
from compress.interpret import Quantized
from compress.sites import flatten_parameters

# By path of a parameter, shaped like it; True where the weight is kept.
Masks = Mapping[str, Bool[Array, "..."]]


def apply_masks(
    params: PyTree, masks: Masks, *, straight_through: bool = False
) -> PyTree:
    """The parameters with zeros where the mask is False; boxes keep their scale.

    Args:
      params: Like the parameters; leaves may be boxes.
      masks: What to keep.
      straight_through: Whether gradients reach the pruned weights too, as if they had
        not been multiplied by zero.
    """
    masked = _straight_through if straight_through else _masked
    paths, leaves, structure = flatten_parameters(params)
    seen = [
        masked(leaf, masks[path]) if path in masks else leaf
        for path, leaf in zip(paths, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, seen)


def _masked(leaf: Any, mask: Bool[Array, "..."]) -> Any:
    if isinstance(leaf, Quantized):
        return dataclasses.replace(leaf, qvalue=_masked(leaf.qvalue, mask))
    return jnp.where(mask, leaf, jnp.zeros_like(leaf))


def _straight_through(leaf: Array, mask: Bool[Array, "..."]) -> Array:
    # Exactly zero, with the gradient of `leaf`.
    return jnp.where(mask, leaf, leaf - jax.lax.stop_gradient(leaf))


def sparsity_of(masks: Masks) -> Float[Array, ""]:
    """The fraction of zeros over all masks."""
    zeros = [_zeros(mask) for mask in masks.values()]
    total = sum(mask.size for mask in masks.values())
    return jnp.sum(jnp.stack(zeros)) / jnp.float32(total)


def sparsity_by_path(masks: Masks) -> dict[str, Float[Array, ""]]:
    """The fraction of zeros in each mask, as `sparsity/path`."""
    return {
        f"sparsity/{path}": _zeros(mask) / jnp.float32(mask.size)
        for path, mask in masks.items()
    }


def _zeros(mask: Bool[Array, "..."]) -> Float[Array, ""]:
    return jnp.sum(~mask, dtype=jnp.int32).astype(jnp.float32)
