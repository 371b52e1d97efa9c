"""How large each input channel of a site is, observed while the model runs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from compress.annotations import Array, Float, Int
from compress.interpret import unbox
from compress.prune.structured.members import members_by_path
from compress.sites import Group, Site


class Inputs(NamedTuple):
    """Mean squares of what a site reads, one per position of the parameter.

    Attributes:
      squares: By axis of the parameter (as text: keys of a pytree); inside scans with
        one leading axis per scan.
      count: Batches seen.
    """

    squares: dict[str, Float[Array, "*stack positions"]]
    count: Int[Array, "*stack"]


def observable_axes(site: Site, groups: Sequence[Group]) -> dict[int, Any]:
    """Axes of the parameter along which the site's inputs can be told apart.

    Returns:
      By such an axis of a member that the site reads: the axes of the activation it
      lies on, and all axes of the parameter that lie there with it.
    """
    wanted = {
        member.axis
        for group in groups
        for member in members_by_path(group).get(str(site.path), ())
        if member.reads
    }
    found = {}
    for activation, own in site.paired:
        size = math.prod(
            site.operand_shapes[1 - (site.weight_side or 0)][a] for a in activation
        )
        # A grouped convolution reads whole multiples; a slice of a weight reads less.
        if size % math.prod(site.weight_shape[axis] for axis in own) == 0:
            found.update({axis: (activation, own) for axis in own if axis in wanted})
    return found


def empty_inputs(site: Site, axes: Mapping[int, Any]) -> Inputs:
    """Nothing seen yet."""
    squares = {
        str(axis): jnp.zeros((*site.stack, site.weight_shape[axis]), jnp.float32)
        for axis in axes
    }
    return Inputs(squares, jnp.zeros(site.stack, jnp.int32))


def observe_inputs(site: Site, axes: Mapping[int, Any], operands: Any) -> Inputs:
    """The mean squares of one batch."""
    assert site.weight_side is not None
    x = unbox(operands[1 - site.weight_side]).astype(jnp.float32)
    squares = {
        str(axis): _mean_square(x, site, activation, own, axis)
        for axis, (activation, own) in axes.items()
    }
    return Inputs(squares, jnp.ones((), jnp.int32))


def _mean_square(
    x: Array, site: Site, activation: Sequence[int], own: Sequence[int], axis: int
) -> Float[Array, "positions"]:
    x = jnp.moveaxis(x, activation, range(len(activation)))
    square = jnp.square(x).mean(axis=tuple(range(len(activation), x.ndim)))
    sizes = [site.weight_shape[a] for a in own]
    square = square.reshape([-1, *sizes])  # first the groups of a convolution
    others = [i for i in range(square.ndim) if i != 1 + list(own).index(axis)]
    return square.mean(axis=tuple(others))


def join_inputs(seen: Mapping[str, Inputs]) -> dict[str, Inputs]:
    """The mean squares of a whole batch, from those of its equal parts, stacked."""
    return {name: _joined(inputs) for name, inputs in seen.items()}


def _joined(parts: Inputs) -> Inputs:
    """The mean over the parts that went where the site is."""
    came = (parts.count > 0).astype(jnp.float32)
    share = came / jnp.maximum(came.sum(axis=0, keepdims=True), 1.0)
    squares = {
        axis: (x * share[..., None]).sum(axis=0) for axis, x in parts.squares.items()
    }
    return Inputs(squares, parts.count.max(axis=0))


def merge_inputs(known: Inputs, seen: Inputs, decay: float) -> Inputs:
    """Averaged exponentially, plainly at first; a branch not taken changes nothing."""
    count = known.count.astype(jnp.float32)
    keep = jnp.minimum(decay, count / (count + 1.0))
    keep = jnp.where(seen.count > 0, keep, 1.0)[..., None]
    squares = {
        axis: keep * known.squares[axis] + (1.0 - keep) * seen.squares[axis]
        for axis in known.squares
    }
    return Inputs(squares, known.count + seen.count)


def input_sizes(
    inputs: Mapping[str, Inputs], sites: Sequence[Site]
) -> dict[tuple[str, int], Float[Array, "..."]]:
    """Root mean squares by (path, axis), broadcastable to the parameter."""
    found: dict[tuple[str, int], list[Array]] = {}
    for site in sites:
        for axis, squares in inputs[site.name].squares.items():
            laid_out = _laid_out(squares, site, int(axis))
            found.setdefault((str(site.path), int(axis)), []).append(laid_out)
    return {
        key: jnp.sqrt(sum(squares[1:], squares[0]) / len(squares))
        for key, squares in found.items()
    }


def _laid_out(squares: Array, site: Site, axis: int) -> Array:
    """Along the axes of the parameter; layers that share it are averaged."""
    stacked = site.stacked
    lengths = tuple(site.weight_shape[a] for a in stacked)
    if lengths != site.stack or any(a > axis for a in stacked):
        squares = squares.mean(axis=tuple(range(len(site.stack))))
        stacked = ()
    sizes = [1] * len(site.weight_shape)
    for own in (*stacked, axis):
        sizes[own] = site.weight_shape[own]
    return squares.reshape(sizes)
