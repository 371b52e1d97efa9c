"""Removes whole units: a smaller function of smaller parameters.

The program is traced at its original sizes and evaluated at the smaller ones, so the
result is a pure function like the original: it can be jitted, differentiated,
quantized, distilled and exported. It equals the original function with the removed
units masked (`mask_units`).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compress.annotations import Array, Bool, PyTree
from compress.interpret.axes import Kept, Node, kept_mask, leaves, resize, unit_of
from compress.sites import (
    Groups,
    Traced,
    find_groups,
    flat_paths,
    parameter_names,
    trace_axes,
)
from compress.sites.groups import STATE

# By name of a group, the units that are kept, sorted: `[kept]`, or `[layers, kept]` for
# a group whose layers may differ.
Keep = Mapping[str, Any]


class Shrunk(NamedTuple):
    """A smaller model.

    Attributes:
      forward: With the signature of the original, keyword arguments too.
      params: Without the removed units.
      model_state: Likewise; None without one.
      widths: The new shape of every parameter, by path: to build the module again.
      take: Cuts any pytree that holds trees like the parameters (optimizer moments, an
        average, masks by path, scales that vary along a cut axis) to the new shapes.
    """

    forward: Callable[..., Any]
    params: PyTree
    model_state: PyTree
    widths: dict[str, tuple[int, ...]]
    take: Callable[[PyTree], PyTree]


class _Cut(NamedTuple):
    """How an axis of a parameter is cut.

    Attributes:
      indices: `[kept]`, or `[layers, kept]` with one row for each index of axis 0.
      mask: Which positions stay, in the first layer.
    """

    indices: np.ndarray
    mask: Bool[np.ndarray, "size"]


# By path and axis.
_Cuts = dict[tuple[str, int], _Cut]


def shrink(
    forward: Callable[..., Any],
    params: PyTree,
    keep: Keep,
    *inputs: Any,
    groups: Groups | None = None,
    model_state: PyTree = None,
    normalization: str = "exact",
) -> Shrunk:
    """Removes all but the kept units of some groups.

    Args:
      forward: Any JAX function of parameters and inputs.
      params: Its parameters.
      keep: By name of a group, the indices of the units that stay, sorted; `[kept]`, or
        `[layers, kept]` where `group.layers` is set. Other groups stay whole.
      *inputs: Example inputs; only shapes and dtypes matter. Not needed with `groups`.
      groups: From `find_groups`, to save the time of finding them again.
      model_state: See `find_groups`.
      normalization: Of sums along an axis that loses units, as in a norm: `exact`
        keeps the divisor, so the result equals the masked model; `rescaled` divides by
        the new size: another function, often a better start for fine-tuning.

    Raises:
      ValueError: If a group is unknown or frozen, or indices are not its units, sorted.
    """
    if normalization not in ("exact", "rescaled"):
        raise ValueError(
            f"shrink: normalization={normalization!r} must be 'exact' or 'rescaled'."
        )
    if groups is None:
        groups = find_groups(forward, params, *inputs, model_state=model_state)
    cuts = _cuts(groups, {name: check_keep(groups, name, keep[name]) for name in keep})
    shapes = {path: tuple(n.size for n in axes) for path, axes in groups.shapes.items()}

    def take(tree: PyTree) -> PyTree:
        return _take(tree, shapes, cuts)

    state = None
    if model_state is not None:
        state = take({STATE[:-1]: model_state})[STATE[:-1]]
    smaller = take(params)
    stateful = model_state is not None
    return Shrunk(
        _smaller(forward, shapes, cuts, stateful, normalization == "rescaled"),
        smaller,
        state,
        {p: x.shape for p, x in zip(flat_paths(params), jax.tree.leaves(smaller))},
        take,
    )


def check_keep(groups: Groups, name: str, kept: Any) -> np.ndarray:
    """The kept indices of a group as an array.

    Raises:
      ValueError: If the group is unknown or frozen, or they are not sorted units of it.
    """
    try:
        group = groups[name]
    except KeyError as error:
        raise ValueError(f"shrink: {error.args[0]}") from None
    if group.frozen is not None:
        raise ValueError(f"shrink: {name} cannot lose units: {group.frozen}.")
    indices = np.asarray(kept)
    rows = np.atleast_2d(indices)
    ranks = (1, 2) if group.layers else (1,)
    if indices.ndim not in ranks or not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(
            f"shrink: {name}: kept units must be integers [kept]"
            f"{' or [layers, kept]' if group.layers else ''}, got "
            f"{indices.dtype}{list(indices.shape)}."
        )
    if indices.ndim == 2 and len(rows) != group.layers:
        raise ValueError(
            f"shrink: {name}: {len(rows)} rows of units for {group.layers} layers. "
            "Give one row for each layer."
        )
    if (
        rows.size == 0
        or (np.diff(rows, axis=1) <= 0).any()
        or rows.min() < 0
        or rows.max() >= group.size
    ):
        raise ValueError(
            f"shrink: {name}: kept units must be sorted, different, at least one, and "
            f"from 0 to {group.size - 1}."
        )
    return indices


def _cuts(groups: Groups, keep: Mapping[str, np.ndarray]) -> _Cuts:
    """For each axis that loses positions, which ones stay."""
    masks: dict[tuple[str, int], np.ndarray] = {}
    for name, kept in keep.items():
        for member in groups[name].members:
            shape = groups.shapes[member.path]
            rows = kept if kept.ndim == 2 else kept[None]
            gone = np.ones((len(rows), shape[member.axis].size), bool)
            for row, units in zip(gone, rows, strict=True):
                removed = np.setdiff1d(np.arange(len(member.indices)), units)
                row[member.indices[removed].ravel()] = False
            key = (member.path, member.axis)
            masks[key] = masks[key] & gone if key in masks else gone
    return {key: _cut(mask) for key, mask in masks.items()}


def _cut(mask: np.ndarray) -> _Cut:
    rows = [np.flatnonzero(row) for row in mask]
    return _Cut(rows[0] if len(rows) == 1 else np.stack(rows), mask[0])


def _take(tree: PyTree, shapes: Mapping[str, tuple[int, ...]], cuts: _Cuts) -> PyTree:
    flat, structure = jax.tree.flatten(tree)
    paths = flat_paths(tree)
    known = _Paths(shapes)
    return jax.tree.unflatten(
        structure,
        [_take_leaf(x, known.find(path), shapes, cuts) for path, x in zip(paths, flat)],
    )


class _Paths:
    """Finds the parameter that an array belongs to, by the end of its path."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.known = set(shapes)

    def find(self, path: str) -> str | None:
        """The longest known path that `path` ends with."""
        while path:
            if path in self.known:
                return path
            _, _, path = path.partition("/")
        return None


def _take_leaf(
    x: Any, path: str | None, shapes: Mapping[str, tuple[int, ...]], cuts: _Cuts
) -> Any:
    if path is None or np.ndim(x) != len(shapes[path]):
        return x
    # Layers go last: before, there is a row of units for each.
    for axis, size in reversed(list(enumerate(shapes[path]))):
        cut = cuts.get((path, axis))
        if cut is None or x.shape[axis] != size:
            continue
        x = _select(x, cut.indices, axis)
    return x


def _select(x: Any, indices: np.ndarray, axis: int) -> Any:
    """Some positions of an axis; with rows of indices, others in each layer."""
    if isinstance(x, jax.ShapeDtypeStruct):
        shape = (*x.shape[:axis], indices.shape[-1], *x.shape[axis + 1 :])
        return jax.ShapeDtypeStruct(shape, x.dtype)
    if indices.ndim == 1:
        return jnp.take(x, indices, axis=axis)
    spread = [1] * x.ndim
    spread[0], spread[axis] = indices.shape
    return jnp.take_along_axis(x, indices.reshape(spread), axis)


def _smaller(
    forward: Callable[..., Any],
    shapes: Mapping[str, tuple[int, ...]],
    cuts: _Cuts,
    stateful: bool,
    rescale: bool,
) -> Callable[..., Any]:
    def smaller(params: PyTree, *args: Any, **keywords: Any) -> Any:
        state, inputs = (args[0], args[1:]) if stateful else (None, args)
        names = parameter_names(params, state)
        leaves_ = [*jax.tree.leaves(params), *jax.tree.leaves(state)]
        originals = [
            jax.ShapeDtypeStruct(shapes[name], x.dtype)
            for name, x in zip(names, leaves_, strict=True)
        ]
        count = len(jax.tree.leaves(params))
        full = jax.tree.unflatten(jax.tree.structure(params), originals[:count])
        full_state = None
        if stateful:
            structure = jax.tree.structure(state)
            full_state = jax.tree.unflatten(structure, originals[count:])

        def call(*args: Any) -> Any:
            return forward(*args, **keywords)

        traced = trace_axes(call, full, *inputs, model_state=full_state)
        kept = _kept_atoms(traced, cuts)
        flat = [*leaves_, *jax.tree.leaves(inputs)]
        outputs = resize(traced.program, traced.axes, kept, flat, rescale=rescale)
        return jax.tree.unflatten(traced.program.out_tree, outputs)

    return smaller


def _kept_atoms(traced: Traced, cuts: _Cuts) -> Kept:
    """What the cut axes of the parameters say about the atoms of this program."""
    kept: dict[Node, np.ndarray] = {}
    for (path, axis), cut in cuts.items():
        node = traced.parameters[path].axes[axis]
        for leaf in set(leaves(node)):
            unit = unit_of(node, leaf)
            stays = np.zeros(leaf.size, bool)
            stays[unit[cut.mask & (unit >= 0)]] = True
            kept[leaf] = kept[leaf] & stays if leaf in kept else stays
    kept = {leaf: mask for leaf, mask in kept.items() if not mask.all()}
    for leaf in kept:
        if leaf.reasons:
            raise ValueError(
                "shrink: for these inputs the program cannot lose units: "
                f"{next(iter(leaf.reasons))}."
            )
    _check_agreement(traced, cuts, kept)
    return kept


def _check_agreement(traced: Traced, cuts: _Cuts, kept: Kept) -> None:
    for path, value in traced.parameters.items():
        for axis, node in enumerate(value.axes):
            if not any(leaf in kept for leaf in leaves(node)):
                continue
            cut = cuts.get((path, axis))
            if cut is None or not np.array_equal(kept_mask(node, kept), cut.mask):
                raise ValueError(
                    f"shrink: {path}:{axis} goes with other units for these inputs "
                    "than for those its groups were found with. Find the groups with "
                    "inputs like these."
                )


def unit_masks(groups: Groups, keep: Keep) -> dict[str, Bool[np.ndarray, "..."]]:
    """By path of a parameter, True where no removed unit is; broadcasts to it."""
    cuts = _cuts(groups, {name: check_keep(groups, name, keep[name]) for name in keep})
    masks: dict[str, np.ndarray] = {}
    for (path, axis), cut in cuts.items():
        shape = tuple(node.size for node in groups.shapes[path])
        rows = cut.indices if cut.indices.ndim == 2 else cut.indices[None]
        mask = np.zeros((len(rows), shape[axis]), bool)
        np.put_along_axis(mask, rows, True, axis=1)
        spread = [1] * len(shape)
        spread[axis] = shape[axis]
        if len(rows) > 1:
            spread[0] = len(rows)
        mask = mask.reshape(spread)
        masks[path] = masks[path] & mask if path in masks else mask
    return masks


def mask_units(
    params: PyTree, groups: Groups, keep: Keep, *, prefix: str = ""
) -> PyTree:
    """The parameters with zeros wherever a removed unit is read, written or scaled.

    The original function of these equals the shrunk one of the smaller ones.

    Args:
      params: Parameters, or with `prefix="model_state/"` model state.
      groups: Of the model.
      keep: As for `shrink`.
      prefix: Of the paths.
    """
    masks = unit_masks(groups, keep)
    return jax.tree.unflatten(
        jax.tree.structure(params),
        [
            _masked(x, masks.get(prefix + path))
            for path, x in zip(flat_paths(params), jax.tree.leaves(params))
        ],
    )


def _masked(x: Array, mask: np.ndarray | None) -> Array:
    return x if mask is None else jnp.where(mask, x, jnp.zeros_like(x))
