"""The numbers that are shipped: integers and scales instead of parameters."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from compress.annotations import Array, PyTree
from compress.interpret import Quantized
from compress.sites import Sites, flat_paths
from compress.transform import State, Transform, parameters

SCALE = "::scale"


@dataclasses.dataclass(frozen=True)
class Packed:
    """What is shipped, and how it becomes the parameters of the program again.

    Attributes:
      weights: By path; a quantized parameter is int8 beside `path::scale`.
      structure: Of the parameters.
      paths: Of its leaves, in order.
      dtypes: Of the quantized parameters before, by path.
    """

    weights: dict[str, np.ndarray]
    structure: Any
    paths: tuple[str, ...]
    dtypes: Mapping[str, Any]

    def boxed(self, weights: Mapping[str, Array]) -> PyTree:
        """The parameters as the program sees them, from shipped arrays."""
        leaves = [
            Quantized(weights[path], weights[path + SCALE], self.dtypes[path])
            if path + SCALE in weights
            else weights[path]
            for path in self.paths
        ]
        return jax.tree.unflatten(self.structure, leaves)


def pack(transform: Transform, params: PyTree, state: State) -> Packed:
    """Masks and quantizes the parameters for good."""
    seen = jax.jit(lambda p, s: parameters(transform, p, s))(params, state)
    boxes = jax.tree.leaves(seen, is_leaf=lambda x: isinstance(x, Quantized))
    paths = tuple(flat_paths(params))
    weights: dict[str, np.ndarray] = {}
    dtypes = {}
    for path, box in zip(paths, boxes, strict=True):
        if isinstance(box, Quantized):
            weights[path] = np.asarray(box.qvalue).astype(np.int8)
            weights[path + SCALE] = np.asarray(box.scale)
            dtypes[path] = box.dtype
        else:
            weights[path] = np.asarray(box)
    return Packed(weights, jax.tree.structure(params), paths, dtypes)


def site_schemes(
    sites: Sites, packed: Packed, given: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What was done at each site, for the manifest; MACs are those of the trace."""
    return [_scheme(site, packed, given) for site in sites]


def _scheme(site: Any, packed: Packed, given: Mapping[str, Any]) -> dict[str, Any]:
    weight = packed.weights.get(site.path) if site.path else None
    scale = packed.weights.get(f"{site.path}{SCALE}")
    quantized = scale is not None and site.reason is None
    activation = _activation(given.get(site.name)) if quantized else {"bits": 32}
    return {
        "name": site.name,
        "op": site.op,
        "path": site.path,
        "shape": list(site.weight_shape),
        "macs": int(site.macs),
        "weight_bits": 32 if weight is None else 8 * weight.dtype.itemsize,
        "num_weights": 0 if weight is None else int(weight.size),
        "num_nonzero": 0 if weight is None else int(np.count_nonzero(weight)),
        "num_scales": 0 if scale is None else int(scale.size),
        "activation_bits": activation["bits"],
        "activation": activation,
        "reason": site.reason,
    }


def _activation(given: Any) -> dict[str, Any]:
    """How a site's activation is quantized, from what its transforms are given."""
    from compress.quantize import Range, absmax_scale

    if given is None:
        return {"bits": 32}
    leaves = jax.tree.leaves(given, is_leaf=lambda x: isinstance(x, Range))
    ranges = [leaf for leaf in leaves if isinstance(leaf, Range)]
    if not ranges:
        return {"bits": 8, "range": "dynamic"}
    scale = absmax_scale(jnp.asarray(ranges[0].absmax), bits=8)
    return {"bits": 8, "range": "static", "scale": np.asarray(scale).tolist()}
