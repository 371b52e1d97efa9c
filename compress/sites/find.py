"""Finds the sites of any JAX function by tracing it."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax

from compress.interpret import (
    Computed,
    Constant,
    Contraction,
    Origin,
    Program,
    Quantized,
    find_contractions,
    ragged_dot_p,
    shape_of,
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
        computed = [x for x in contraction.origins if isinstance(x, Computed)]
        nearest = computed[0].paths[0] if computed else self.nearest
        key = f"{scope or nearest}~"
        self.uses[key] += 1
        return f"{key}{self.uses[key]}"


def _site(contraction: Contraction, shapes: dict[str, Any], namer: _Namer) -> Site:
    equation = contraction.equation
    side, reason = _weight_side(contraction)
    source = None if side is None else contraction.origins[side]
    origin = source if isinstance(source, Origin) else None
    name = namer.weight(origin.path) if origin else namer.weightless(contraction)
    shape, dtype = shapes[origin.path] if origin else ((), None)
    operands = tuple(shape_of(atom) for atom in equation.invars[:2])
    summed = _contracted_axes(contraction)
    unused = _group_axes(contraction, side)
    contracting, output = _roles(origin, summed[side or 0], unused)
    return Site(
        name=name,
        op=_op(contraction),
        path=origin.path if origin else None,
        weight_side=side,
        weight_shape=tuple(shape),
        weight_dtype=dtype,
        contracting=contracting,
        output=output,
        window=_window_axes(contraction, origin, side),
        operand_shapes=(operands[0], operands[1]),
        out_shape=shape_of(equation.outvars[0]),
        activation_contracting=_activation_axes(contraction, side, summed),
        paired=_paired_axes(contraction, side, origin),
        stack=contraction.stack,
        macs_once=_macs(contraction, summed) * contraction.devices,
        reason=reason,
        source=contraction.source,
        location=contraction.location,
    )


def _op(contraction: Contraction) -> str:
    """What users call it."""
    if _is_ragged(contraction):
        return "ragged_dot"
    return contraction.equation.primitive.name


def _weight_side(contraction: Contraction) -> tuple[int | None, str | None]:
    """Which operand is the weight, and why the site cannot be compressed if so."""
    known = [i for i, x in enumerate(contraction.origins) if isinstance(x, Origin)]
    side = known[0] if len(known) == 1 else None
    if contraction.opaque:
        return side, f"inside {contraction.opaque}, which is kept whole"
    if not known:
        return None, _no_weight(contraction.origins)
    if len(known) == 2:
        return None, "both operands are parameters"
    if _is_convolution(contraction) and side == 0:
        return None, "the weight is the convolution's input"
    if _is_ragged(contraction) and not _is_plain_ragged(contraction, side):
        return None, "not the plain ragged_dot of rows with one weight per group"
    return side, None


def _no_weight(origins: Sequence[Any]) -> str:
    """Why no operand is a parameter."""
    for source in origins:
        if isinstance(source, Computed):
            names = ", ".join(source.paths)
            by = f"by {source.by}, {source.source}"
            return f"its weight is computed from {names} {by}: it stays float"
    constants = [x for x in origins if isinstance(x, Constant)]
    if any(x.closed_over for x in constants):
        return "its weight is a closed-over constant: pass it in with the parameters"
    if constants:
        return "no weight: an operand is a constant"
    return "no weight: both operands are data"


def _is_convolution(contraction: Contraction) -> bool:
    return contraction.equation.primitive.name == "conv_general_dilated"


def _is_ragged(contraction: Contraction) -> bool:
    return contraction.equation.primitive is ragged_dot_p


def _is_plain_ragged(contraction: Contraction, side: int | None) -> bool:
    """Whether it is `jax.lax.ragged_dot(rows, weights, sizes)`."""
    params = contraction.equation.params
    numbers = params["ragged_dot_dimension_numbers"]
    (lhs, rhs), batch = numbers.dot_dimension_numbers
    axes = [*lhs, *rhs, *numbers.lhs_ragged_dimensions, *numbers.rhs_group_dimensions]
    plain = axes == [1, 1, 0, 0] and not any(batch)
    ranks = [len(shape_of(atom)) for atom in contraction.equation.invars[:2]]
    return side == 1 and plain and ranks == [2, 3] and params["group_offset"] is None


def _group_axes(contraction: Contraction, side: int | None) -> set[int]:
    """Axes of the weight that pick which part of it a row meets."""
    if not _is_ragged(contraction) or side != 1:
        return set()
    numbers = contraction.equation.params["ragged_dot_dimension_numbers"]
    return set(numbers.rhs_group_dimensions)


def _contracted_axes(contraction: Contraction) -> tuple[set[int], set[int]]:
    """For each operand, the axes that are summed over."""
    if _is_ragged(contraction):
        ragged = contraction.equation.params["ragged_dot_dimension_numbers"]
        (lhs, rhs), _ = ragged.dot_dimension_numbers
        return set(lhs), set(rhs)
    numbers = contraction.equation.params["dimension_numbers"]
    if _is_convolution(contraction):
        # Rows that meet different output features cannot have a scale each.
        mixed = contraction.equation.params["batch_group_count"] > 1
        rows = set(numbers.lhs_spec[: 1 if mixed else 0])
        return rows | set(numbers.lhs_spec[1:]), set(numbers.rhs_spec[1:])
    (lhs, rhs), _ = numbers
    return set(lhs), set(rhs)


def _roles(
    origin: Origin | None, summed: set[int], unused: set[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The parameter's axes that are contracted, and those that are output."""
    if origin is None:
        return (), ()
    contracting = {a for i in summed for a in origin.axes[i]}
    kept = [axes for i, axes in enumerate(origin.axes) if i not in summed | unused]
    output = {a for axes in kept for a in axes} - contracting
    return tuple(sorted(contracting)), tuple(sorted(output))


def _window_axes(
    contraction: Contraction, origin: Origin | None, side: int | None
) -> tuple[int, ...]:
    """Axes of the parameter along which a convolution's window slides."""
    if origin is None or side is None or not _is_convolution(contraction):
        return ()
    _, rhs, _ = contraction.equation.params["dimension_numbers"]
    return tuple(sorted({a for i in rhs[2:] for a in origin.axes[i]}))


def _activation_axes(
    contraction: Contraction, side: int | None, summed: tuple[set[int], set[int]]
) -> tuple[int, ...]:
    return tuple(sorted(summed[1 - side])) if side is not None else ()


def _paired_axes(
    contraction: Contraction, side: int | None, origin: Origin | None
) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """Which axes of the activation meet which axes of the parameter in the sum."""
    if side is None or origin is None or _is_ragged(contraction):
        return ()
    numbers = contraction.equation.params["dimension_numbers"]
    if _is_convolution(contraction):
        pairs = [(numbers.lhs_spec[1], numbers.rhs_spec[1])]
    else:
        pairs = list(zip(numbers[0][1 - side], numbers[0][side]))
    # An axis of the parameter may be split over several axes of the operand.
    by_parameter: dict[tuple[int, ...], tuple[int, ...]] = {}
    for activation, weight in sorted(pairs, key=lambda pair: pair[1]):
        axes = origin.axes[weight]
        by_parameter[axes] = (*by_parameter.get(axes, ()), activation)
    return tuple((axes, own) for own, axes in by_parameter.items() if own)


def _macs(contraction: Contraction, summed: tuple[set[int], set[int]]) -> Any:
    """Products of one execution: every output element sums over the weight's axes."""
    equation = contraction.equation
    side = 1 if _is_convolution(contraction) else 0
    shape = shape_of(equation.invars[side])
    terms = math.prod(shape[axis] for axis in summed[side])
    return math.prod(shape_of(equation.outvars[0])) * terms
