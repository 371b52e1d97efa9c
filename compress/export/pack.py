"""The numbers that are shipped: integers and scales instead of parameters."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from compress.annotations import Array, PyTree
from compress.export.artifact import SCALE
from compress.export.manifest import ArtifactError
from compress.export.storage import bits_per_element
from compress.interpret import Quantized
from compress.quantize import Range, absmax_scale, largest_integer
from compress.sites import Sites, flat_paths
from compress.transform import State, Transform, parameters

MODEL_STATE = "model_state"


@dataclasses.dataclass(frozen=True)
class Packed:
    """What is shipped, and how it becomes the parameters of the program again.

    Attributes:
      weights: By path; a quantized parameter is int8 or int4 beside `path::scale`.
      structure: Of the parameters.
      paths: Of its leaves, in order.
      dtypes: Of the quantized parameters before, by path.
      state_structure: Of the model's state; None if forward takes none.
      state_paths: Of its leaves, in order, `model_state/norm/mean`.
    """

    weights: dict[str, Any]
    structure: Any
    paths: tuple[str, ...]
    dtypes: Mapping[str, Any]
    state_structure: Any
    state_paths: tuple[str, ...]

    def boxed(self, weights: Mapping[str, Array]) -> PyTree:
        """The parameters as the program sees them, from shipped arrays."""
        leaves = [
            Quantized(
                weights[path].astype(jnp.int8), weights[path + SCALE], self.dtypes[path]
            )
            if path + SCALE in weights
            else weights[path]
            for path in self.paths
        ]
        return jax.tree.unflatten(self.structure, leaves)

    def first_inputs(self, weights: Mapping[str, Array]) -> tuple[PyTree, ...]:
        """What forward takes before a user's inputs: the model's state, if any."""
        if self.state_structure is None:
            return ()
        leaves = [weights[path] for path in self.state_paths]
        return (jax.tree.unflatten(self.state_structure, leaves),)


def pack(params: PyTree, seen: PyTree, step: int, model_state: PyTree | None) -> Packed:
    """What is shipped of a model; its state stays as it is.

    Args:
      params: The trained parameters.
      seen: As the forward pass sees them: masked, quantized.
      step: Updates done.
      model_state: Arrays that are no parameters.

    Raises:
      ArtifactError: If quantization has not started yet, or something in the model's
        state is not a plain array or has the name of a parameter.
    """
    boxes = jax.tree.leaves(seen, is_leaf=lambda x: isinstance(x, Quantized))
    paths = tuple(flat_paths(params))
    weights: dict[str, np.ndarray] = {}
    dtypes = {}
    for path, box in zip(paths, boxes, strict=True):
        if isinstance(box, Quantized):
            weights[path] = _integers(path, box, step)
            weights[path + SCALE] = np.asarray(box.scale)
            dtypes[path] = box.dtype
        else:
            weights[path] = np.asarray(box)
    shipped = _model_state(model_state)
    if taken := sorted(weights.keys() & shipped.keys()):
        raise ArtifactError(
            f'export "{taken[0]}": a parameter and an array of the model\'s state have '
            "this name in the file. Rename the parameter."
        )
    return Packed(
        {**weights, **shipped},
        jax.tree.structure(params),
        paths,
        dtypes,
        None if model_state is None else jax.tree.structure(model_state),
        tuple(shipped),
    )


def packed_shapes(
    transform: Transform, params: PyTree, state: State, model_state: PyTree | None
) -> Packed:
    """What `pack` will give, from shapes alone: its weights are shapes and dtypes."""
    dtypes: dict[str, Any] = {}
    paths = tuple(flat_paths(params))

    def shipped(params: PyTree, state: State, model_state: PyTree) -> dict[str, Any]:
        seen = parameters(transform, params, state)
        boxes = jax.tree.leaves(seen, is_leaf=lambda x: isinstance(x, Quantized))
        weights = {}
        for path, box in zip(paths, boxes, strict=True):
            if isinstance(box, Quantized):
                kind = jnp.int4 if box.bits <= 4 else jnp.int8
                weights[path] = box.qvalue.astype(kind)
                weights[path + SCALE] = box.scale
                dtypes[path] = box.dtype
            else:
                weights[path] = box
        tree = {} if model_state is None else {MODEL_STATE: model_state}
        return {**weights, **dict(zip(flat_paths(tree), jax.tree.leaves(tree)))}

    weights = jax.eval_shape(shipped, params, state, model_state)
    named = {} if model_state is None else {MODEL_STATE: model_state}
    return Packed(
        weights,
        jax.tree.structure(params),
        paths,
        dtypes,
        None if model_state is None else jax.tree.structure(model_state),
        tuple(flat_paths(named)),
    )


def _integers(path: str, box: Quantized, step: int) -> np.ndarray:
    """The qvalues, in int8 or, where four bits hold them, in int4."""
    values, limit = np.asarray(box.qvalue), largest_integer(box.bits)
    if (values != np.round(values)).any() or (np.abs(values) > limit).any():
        raise ArtifactError(
            f'export "{path}": is not quantized yet: the state is at step {step} and '
            "quantization starts later. Train further, or quantize from the start "
            "with fake_quant(steps=(0, None))."
        )
    return values.astype(jnp.int4 if box.bits <= 4 else np.int8)


def _model_state(model_state: PyTree | None) -> dict[str, np.ndarray]:
    """The arrays of a model's state, by the name they are shipped under."""
    tree = {} if model_state is None else {MODEL_STATE: model_state}
    arrays = {}
    for path, leaf in zip(flat_paths(tree), jax.tree.leaves(tree), strict=True):
        if jnp.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.extended):
            raise ArtifactError(
                f'export "{path}": {leaf.dtype} cannot be shipped. Leave it out of the '
                "model's state: inference draws no random numbers."
            )
        arrays[path] = np.asarray(jnp.asarray(leaf))
    return arrays


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
        "weight_bits": 32 if weight is None else bits_per_element(weight),
        "num_weights": 0 if weight is None else int(weight.size),
        "num_nonzero": 0 if weight is None else int(np.count_nonzero(weight)),
        "num_scales": 0 if scale is None else int(scale.size),
        "activation_bits": activation["bits"],
        "activation": activation,
        "reason": site.reason,
    }


def _activation(given: Any) -> dict[str, Any]:
    """How a site's activation is quantized, from what its transforms are given."""
    if given is None:
        return {"bits": 32}
    leaves = jax.tree.leaves(given, is_leaf=lambda x: isinstance(x, Range))
    ranges = [leaf for leaf in leaves if isinstance(leaf, Range)]
    if not ranges:
        return {"bits": 8, "range": "dynamic"}
    scale = absmax_scale(jnp.asarray(ranges[0].absmax), bits=8)
    return {"bits": 8, "range": "static", "scale": np.asarray(scale).tolist()}
