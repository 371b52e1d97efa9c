"""Finds what belongs to a parameter in other trees: moments in an optimizer's state."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from compress.annotations import Array, PyTree
from compress.sites import flat_paths


def map_like(
    tree: PyTree, params: PyTree, function: Callable[[str, Array], Any]
) -> PyTree:
    """`tree` with `function(path, leaf)` for every leaf that belongs to a parameter.

    A leaf belongs to the parameter whose whole path is the end of its own, the longest
    one if there are several, and whose shape it has: trees like the parameters may be
    anywhere inside, with leaves left out (optax's masked ones).
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    known = {
        tuple(keys): (path, np.shape(leaf))
        for path, (keys, leaf) in zip(flat_paths(params), flat, strict=True)
    }

    def visit(keys: Any, leaf: Any) -> Any:
        ends = (tuple(keys[start:]) for start in range(len(keys) + 1))
        path, shape = next((known[end] for end in ends if end in known), (None, None))
        return (
            function(path, leaf)
            if path is not None and np.shape(leaf) == shape
            else leaf
        )

    return jax.tree_util.tree_map_with_path(visit, tree)
