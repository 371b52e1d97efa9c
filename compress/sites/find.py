"""Finds the sites of any JAX function by tracing it."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax

from compress.interpret import (
    Contraction,
    Origin,
    Program,
    Quantized,
    find_contractions,
    shape_of,
    source_line,
    trace,
)
from compress.sites.site import Site, Sites


def find_sites(forward: Callable[..., Any], params: Any, *inputs: Any) -> Sites:
    """Finds every contraction of `forward(params, *inputs)`, without running it.

    Args:
      forward: Any JAX function of parameters and inputs.
      params: A pytree of arrays or `jax.ShapeDtypeStruct`s.
      *inputs: Example inputs, likewise.

    Returns:
      The sites; printed, a table.

    Raises:
      NotImplementedError: If a primitive we do not know holds a contraction; the
        message names the line.
    """
    program = trace(forward, params, *inputs)
    return find_sites_in(program, params)


def find_sites_in(program: Program, params: Any) -> Sites:
    """The sites of a program traced with `params` as its first argument."""
    names, leaves = flat_paths(params), jax.tree.leaves(params)
    num_data = len(program.jaxpr.invars) - len(leaves)
    found = find_contractions(program, [*names, *[None] * num_data])
    shapes = {name: (leaf.shape, leaf.dtype) for name, leaf in zip(names, leaves)}
    namer = _Namer()
    sites = tuple(_site(c, shapes, namer) for c in found.contractions)
    return Sites(sites, frozenset(found.gathered))


def flat_paths(tree: Any) -> list[str]:
    """The path of every leaf, `blocks/0/kernel`, in the order of `jax.tree.leaves`."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [_path_text(path) for path, _ in flat]


def flatten_parameters(params: Any) -> tuple[list[str], list[Any], Any]:
    """Paths, leaves and structure of parameters some of which are boxes.

    A `Quantized` box counts as one leaf, with the path of the parameter it stands for.
    """
    is_box = lambda leaf: isinstance(leaf, Quantized)  # noqa: E731
    leaves, structure = jax.tree.flatten(params, is_leaf=is_box)
    paths = flat_paths(jax.tree.unflatten(structure, range(len(leaves))))
    return paths, leaves, structure


def _path_text(path: Any) -> str:
    """Without the `value` that a Flax NNX variable adds to its own name."""
    attribute = jax.tree_util.GetAttrKey
    if len(path) > 1 and isinstance(path[-1], attribute) and path[-1].name == "value":
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def parameter_paths(params: Any) -> dict[str, Any]:
    """The leaves of a pytree by path."""
    return dict(zip(flat_paths(params), jax.tree.leaves(params)))


class _Namer:
    """Gives each site its name; remembers what was given."""

    def __init__(self) -> None:
        self.uses: Counter[str] = Counter()
        self.nearest = "input"

    def weight(self, path: str) -> str:
        self.nearest = path
        self.uses[path] += 1
        uses = self.uses[path]
        return path if uses == 1 else f"{path}#{uses - 1}"

    def weightless(self, contraction: Contraction) -> str:
        scope = str(contraction.equation.source_info.name_stack)
        key = f"{scope or self.nearest}~"
        self.uses[key] += 1
        return f"{key}{self.uses[key]}"


def _site(contraction: Contraction, shapes: dict[str, Any], namer: _Namer) -> Site:
    equation = contraction.equation
    side, reason = _weight_side(contraction)
    origin = None if side is None else contraction.origins[side]
    name = namer.weight(origin.path) if origin else namer.weightless(contraction)
    shape, dtype = shapes[origin.path] if origin else ((), None)
    operands = tuple(shape_of(atom) for atom in equation.invars)
    summed = _contracted_axes(contraction)
    contracting, output = _roles(origin, summed[side or 0])
    return Site(
        name=name,
        op=equation.primitive.name,
        path=origin.path if origin else None,
        weight_side=side,
        weight_shape=tuple(shape),
        weight_dtype=dtype,
        contracting=contracting,
        output=output,
        operand_shapes=(operands[0], operands[1]),
        out_shape=shape_of(equation.outvars[0]),
        activation_contracting=_activation_axes(contraction, side, summed),
        stack=contraction.stack,
        macs_once=_macs(contraction, summed),
        reason=reason,
        source=source_line(equation),
        location=contraction.location,
    )


def _weight_side(contraction: Contraction) -> tuple[int | None, str | None]:
    """Which operand is the weight, and why the site cannot be compressed if so."""
    known = [side for side, o in enumerate(contraction.origins) if o is not None]
    side = known[0] if len(known) == 1 else None
    if contraction.opaque:
        return side, f"inside {contraction.opaque}, which is kept whole"
    if not known:
        return None, "no weight: both operands are data"
    if len(known) == 2:
        return None, "both operands are parameters"
    if _is_convolution(contraction) and side == 0:
        return None, "the weight is the convolution's input"
    return side, None


def _is_convolution(contraction: Contraction) -> bool:
    return contraction.equation.primitive.name == "conv_general_dilated"


def _contracted_axes(contraction: Contraction) -> tuple[set[int], set[int]]:
    """For each operand, the axes that are summed over."""
    numbers = contraction.equation.params["dimension_numbers"]
    if _is_convolution(contraction):
        # Rows that meet different output features cannot have a scale each.
        mixed = contraction.equation.params["batch_group_count"] > 1
        rows = set(numbers.lhs_spec[: 1 if mixed else 0])
        return rows | set(numbers.lhs_spec[1:]), set(numbers.rhs_spec[1:])
    (lhs, rhs), _ = numbers
    return set(lhs), set(rhs)


def _roles(
    origin: Origin | None, summed: set[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The parameter's axes that are contracted, and those that are output."""
    if origin is None:
        return (), ()
    contracting = {a for i in summed for a in origin.axes[i]}
    others = {a for i, axes in enumerate(origin.axes) if i not in summed for a in axes}
    return tuple(sorted(contracting)), tuple(sorted(others - contracting))


def _activation_axes(
    contraction: Contraction, side: int | None, summed: tuple[set[int], set[int]]
) -> tuple[int, ...]:
    return tuple(sorted(summed[1 - side])) if side is not None else ()


def _macs(contraction: Contraction, summed: tuple[set[int], set[int]]) -> Any:
    """Products of one execution: every output element sums over the weight's axes."""
    equation = contraction.equation
    side = 1 if _is_convolution(contraction) else 0
    shape = shape_of(equation.invars[side])
    terms = math.prod(shape[axis] for axis in summed[side])
    return math.prod(shape_of(equation.outvars[0])) * terms
