"""What each weight multiplies: statistics of a site's inputs over calibration batches.

A parameter is sliced, transposed and scanned over before it is multiplied. Which of its
elements meet which input is found by sending the elements' positions through the
program in their place; so scores and updates computed on the matrices of a contraction
(`matrices.py`) go back to where they belong, whatever lies between.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compress.annotations import Array, Float, Int, PyTree
from compress.interpret import Body, Equation, Program, Quantized, bodies, unbox
from compress.prune.matrices import (
    hessians,
    input_channels,
    squared_norms,
    unsupported,
    weight_matrices,
)
from compress.sites import Site, flat_paths
from compress.transform import State, Transform, observe

# By name, what is summed over the batches: nothing, squares, or all products.
MOMENTS = {"none": None, "norms": squared_norms, "hessian": hessians}


class Refused(NamedTuple):
    """A parameter whose inputs cannot be told apart.

    Attributes:
      path: Of the parameter.
      sites: Names of the sites that read it.
      reason: Why.
    """

    path: str
    sites: tuple[str, ...]
    reason: str


class Rows(NamedTuple):
    """Weights that share their inputs, as matrices with an output per row.

    Attributes:
      path: Of the parameter.
      sites: Names of the sites that read it.
      indices: Positions in the flattened parameter. Columns are in the parameter's
        order; of a convolution, position by position, channels inside.
      moment: Of the inputs, `[groups, inputs]` or `[groups, inputs, inputs]`, summed
        over all uses; None if nothing was asked for.
    """

    path: str
    sites: tuple[str, ...]
    indices: Int[np.ndarray, "groups outputs inputs"]
    moment: Float[np.ndarray, "..."] | None


def input_moments(
    forward: Callable[..., Any],
    params: PyTree,
    sites: Sequence[Site],
    batches: Sequence[tuple[Any, ...]],
    kind: str,
) -> list[Rows | Refused]:
    """Statistics of the inputs of `sites`, a parameter at a time.

    Args:
      forward: Any JAX function of parameters and inputs.
      params: Its parameters, as the inputs shall be computed with.
      sites: All sites of the parameters wanted, such as `refusal` does not refuse.
      batches: Inputs of `forward`.
      kind: `none`, `norms` or `hessian`.

    Returns:
      By parameter in the order of `sites`, its weights with their inputs (several if
      parts of it have inputs of their own); or why it has none.

    Raises:
      ValueError: If the inputs of a site are not finite.
    """
    wanted = {site.name: str(site.path) for site in sites}
    places = jax.device_get(_places(forward, params, wanted, batches[0]))
    moments = jax.device_get(_sum_moments(forward, params, wanted, batches, kind))
    _check_moments(moments)
    by_path: dict[str, list[Site]] = {}
    for site in sites:
        by_path.setdefault(str(site.path), []).append(site)
    return [
        rows
        for path, uses in by_path.items()
        for rows in _rows_of(path, uses, places, moments)
    ]


def refusal(program: Program, site: Site) -> str | None:
    """Why the inputs of a site cannot be observed, or None."""
    if not jnp.issubdtype(site.weight_dtype, jnp.floating):
        return f"its weight is {site.weight_dtype}, not floating"
    around, equation = _walk_to(program, site)
    if any(body.repeats is None for body in around):
        return "inside a while loop, whose rounds cannot be collected"
    if any(body.devices > 1 for body in around):
        return "inside a shard_map, where each device sees other inputs"
    return unsupported(equation)


def neighbours(program: Program, site: Site) -> int:
    """How many inputs of a site follow one another: channels, or the innermost axis."""
    inside = site.weight_shape[site.contracting[-1]] if site.contracting else 1
    channels = input_channels(_walk_to(program, site)[1])
    return inside if channels is None else channels


def _walk_to(program: Program, site: Site) -> tuple[list[Body], Equation]:
    """The programs around the equation of a site, and the equation."""
    jaxpr, location, around = program.jaxpr, list(site.location), []
    while len(location) > 1:
        equation, body = jaxpr.eqns[location.pop(0)], location.pop(0)
        around.append(bodies(equation)[body])
        jaxpr = around[-1].jaxpr
    return around, jaxpr.eqns[location[0]]


# tap(site, equation, operands) -> what to collect of a site that is wanted
_Look = Callable[[Site, Any, Any], Any]
# box(leaf) -> what stands for a parameter that is wanted
_Box = Callable[[Any], Quantized]


def _observing(
    forward: Callable[..., Any], wanted: Mapping[str, str], box: _Box, look: _Look
) -> Callable[..., Any]:
    """`(params, *inputs) -> what was seen by site`, of the sites wanted.

    Args:
      forward: Any JAX function of parameters and inputs.
      wanted: The path of the parameter by site name.
      box: What stands for those parameters.
      look: What to collect.
    """
    paths = frozenset(wanted.values())

    def boxed(memory: Any, params: PyTree, step: Array) -> PyTree:
        named = zip(flat_paths(params), jax.tree.leaves(params), strict=True)
        leaves = [box(leaf) if path in paths else leaf for path, leaf in named]
        return jax.tree.unflatten(jax.tree.structure(params), leaves)

    def tap(site: Site, equation: Any, operands: Any, product: Any) -> Any:
        return look(site, equation, operands) if site.name in wanted else None

    transform = Transform("inputs", init=lambda params, sites: (), parameters=boxed)
    run = observe(forward, transform, tap)
    state = State(jnp.zeros((), jnp.int32), ())
    return lambda params, *inputs: run(params, state, *inputs)[1]


def _boxed(leaf: Any, values: Any) -> Quantized:
    """A box that keeps track of what a parameter is scaled by."""
    return Quantized(values, jnp.ones((1,) * leaf.ndim, jnp.float32), leaf.dtype)


def _places(
    forward: Callable[..., Any],
    params: PyTree,
    wanted: Mapping[str, str],
    inputs: tuple[Any, ...],
) -> dict[str, Any]:
    """The positions of the weights of each site, as its contraction sees them."""

    def positions(leaf: Any) -> Quantized:
        order = jnp.arange(leaf.size, dtype=jnp.int32)
        return _boxed(leaf, order.reshape(leaf.shape))

    def look(site: Site, equation: Any, operands: Any) -> Any:
        side = site.weight_side or 0
        # 1: a branch that was not taken gives zeros.
        return (
            weight_matrices(equation, side, operands[side].qvalue),
            jnp.ones((), jnp.int32),
        )

    return jax.jit(_observing(forward, wanted, positions, look))(params, *inputs)


def _sum_moments(
    forward: Callable[..., Any],
    params: PyTree,
    wanted: Mapping[str, str],
    batches: Sequence[tuple[Any, ...]],
    kind: str,
) -> dict[str, Any]:
    """The moment by site, summed over the batches."""
    moment = MOMENTS[kind]
    if moment is None:
        return {}

    def look(site: Site, equation: Any, operands: Any) -> Any:
        side = site.weight_side or 0
        x, weight = unbox(operands[1 - side]), operands[side]
        # A weight that is halved before its site meets half of the input.
        factor = jnp.square(weight.scale.ravel()[0])
        return moment(equation, side, x, operands[2:]) * factor

    observing = _observing(forward, wanted, lambda leaf: _boxed(leaf, leaf), look)
    shapes = jax.eval_shape(observing, params, *batches[0])
    total = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    add = jax.jit(partial(_add, observing), donate_argnums=0)
    for inputs in batches:
        total = add(total, params, *inputs)
    return total


def _add(observing: Callable[..., Any], total: Any, *args: Any) -> Any:
    return jax.tree.map(jnp.add, total, observing(*args))


def _check_moments(moments: Mapping[str, Any]) -> None:
    for name, moment in moments.items():
        if not np.isfinite(moment).all():
            raise ValueError(
                f'prune.one_shot "{name}": its inputs are not finite, or their squares '
                "overflow float32. Look for the layer before it whose outputs grow."
            )


class _Group(NamedTuple):
    """One matrix of weights, `[outputs, inputs]`, with the moment of its inputs."""

    indices: Any
    moment: Any


def _rows_of(
    path: str, uses: Sequence[Site], places: Mapping[str, Any], moments: Any
) -> list[Rows | Refused]:
    """The weights of one parameter, each element once; or why that cannot be."""
    names = tuple(site.name for site in uses)
    for name in names:
        if not places[name][1].all():
            reason = f'"{name}" is in a branch that the first batch does not take'
            return [Refused(path, names, reason)]
    per_use = [_groups(site, places[site.name][0], moments) for site in uses]
    if _overlaps([g.indices for groups in per_use for g in groups]):
        merged = _merge([g for groups in per_use for g in groups])
        if _overlaps([g.indices for g in merged]):
            reason = "multiplied in several ways that share weights but not inputs"
            return [Refused(path, names, reason)]
        per_use = _alike(merged)
    return [_stacked(path, names, groups) for groups in per_use]


def _groups(site: Site, places: Any, moments: Mapping[str, Any]) -> list[_Group]:
    """The groups of one site, its scans flattened."""
    indices = places.reshape(-1, *places.shape[-2:])
    # A convolution's columns are in order already; a product's are as it was written.
    order = np.broadcast_to(np.arange(indices.shape[-1]), indices[:, 0].shape)
    if site.op != "conv_general_dilated":
        order = np.argsort(indices[:, 0], axis=-1)
    indices = np.take_along_axis(indices, order[:, None], axis=-1)
    if site.name not in moments:
        return [_Group(i, None) for i in indices]
    moment = moments[site.name]
    moment = moment.reshape(-1, *moment.shape[places.ndim - 2 :])
    return [
        _Group(i, _reordered(m, o))
        for i, m, o in zip(indices, moment, order, strict=True)
    ]


def _reordered(moment: Any, order: Any) -> Any:
    """The moment with its inputs in another order."""
    if (order == np.arange(len(order))).all():
        return moment
    return moment[order] if moment.ndim == 1 else moment[np.ix_(order, order)]


def _overlaps(matrices: Sequence[Any]) -> bool:
    """Whether an element of the parameter occurs twice."""
    together = np.concatenate([m.ravel() for m in matrices])
    return bool(np.bincount(together).max(initial=0) > 1)


def _merge(groups: Sequence[_Group]) -> list[_Group]:
    """Equal matrices become one, which has the inputs of all of them."""
    merged: dict[bytes, _Group] = {}
    for group in groups:
        rows = np.unique(group.indices, axis=0)  # an output may be made twice
        key, known = rows.tobytes(), merged.get(rows.tobytes())
        if known is None:
            merged[key] = group._replace(indices=rows)
        else:
            both = None if known.moment is None else known.moment + group.moment
            merged[key] = _Group(rows, both)
    return list(merged.values())


def _alike(groups: Sequence[_Group]) -> list[list[_Group]]:
    """Groups of one shape, which can be stacked."""
    by_shape: dict[Any, list[_Group]] = {}
    for group in groups:
        by_shape.setdefault(group.indices.shape, []).append(group)
    return list(by_shape.values())


def _stacked(path: str, names: tuple[str, ...], groups: Sequence[_Group]) -> Rows:
    moments = [g.moment for g in groups]
    return Rows(
        path,
        names,
        np.stack([g.indices for g in groups]),
        None if moments[0] is None else np.stack(moments),
    )
