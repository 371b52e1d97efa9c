"""Follows each parameter through the traced program to where it is contracted."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.extend.core import primitives

from compress.interpret.boxes import UNCHANGED, reshape_blocks
from compress.interpret.nested import CARRIED, SLICED, WHOLE, bodies, inner_jaxprs
from compress.interpret.program import (
    Equation,
    Location,
    Program,
    is_literal,
    shape_of,
    source_line,
    split_primitive,
)

CONTRACTIONS = (primitives.dot_general_p, primitives.conv_general_dilated_p)


class Origin(NamedTuple):
    """The parameter a value was made from by moving its elements.

    Attributes:
      path: Of the parameter.
      axes: For each axis of the value, the parameter's axes it runs along.
    """

    path: str
    axes: tuple[tuple[int, ...], ...]


class Contraction(NamedTuple):
    """One contraction of the traced program.

    Attributes:
      location: Where its equation stands.
      equation: The equation.
      origins: For each operand, the parameter it came from, or None.
      stack: Lengths of the scans around it, outermost first.
      unbounded: Whether it is inside a while loop.
      opaque: The primitive that hides it, if it cannot be reached.
    """

    location: Location
    equation: Equation
    origins: tuple[Origin | None, Origin | None]
    stack: tuple[int, ...]
    unbounded: bool
    opaque: str | None


@dataclasses.dataclass(frozen=True)
class _Around:
    """What encloses the program being walked."""

    location: Location = ()
    stack: tuple[int, ...] = ()
    unbounded: bool = False
    opaque: str | None = None


@dataclasses.dataclass
class Found:
    """What a walk finds.

    Attributes:
      contractions: In the order of the program.
      gathered: Paths of parameters whose rows are looked up (embeddings).
    """

    contractions: list[Contraction] = dataclasses.field(default_factory=list)
    gathered: set[str] = dataclasses.field(default_factory=set)


def find_contractions(program: Program, paths: Sequence[str | None]) -> Found:
    """Finds every contraction and the parameters that reach it.

    Args:
      program: The traced program.
      paths: For each flat input, the parameter's path, or None for data.

    Raises:
      NotImplementedError: If a primitive we do not know holds a contraction.
    """
    found = Found()
    origins = [
        None if path is None else Origin(path, tuple((i,) for i in range(v.aval.ndim)))
        for path, v in zip(paths, program.jaxpr.invars, strict=True)
    ]
    _walk(program.jaxpr, origins, found, _Around())
    return found


def _walk(
    jaxpr: Any, origins: Sequence[Origin | None], found: Found, around: _Around
) -> list[Origin | None]:
    environment = dict(zip(jaxpr.invars, origins, strict=True))

    def read(atom: Any) -> Origin | None:
        return None if is_literal(atom) else environment.get(atom)

    for index, equation in enumerate(jaxpr.eqns):
        operands = [read(atom) for atom in equation.invars]
        here = dataclasses.replace(around, location=(*around.location, index))
        outputs = _visit(equation, operands, found, here)
        environment.update(zip(equation.outvars, outputs))
    return [read(atom) for atom in jaxpr.outvars]


def _visit(
    equation: Equation, operands: list[Origin | None], found: Found, here: _Around
) -> list[Origin | None]:
    nothing: list[Origin | None] = [None] * len(equation.outvars)
    if equation.primitive in CONTRACTIONS:
        origins = (operands[0], operands[1])
        found.contractions.append(
            Contraction(
                here.location,
                equation,
                origins,
                here.stack,
                here.unbounded,
                here.opaque,
            )
        )
        return nothing
    if bodies(equation):
        return _walk_bodies(equation, operands, found, here) or nothing
    if equation.primitive in WHOLE:
        _walk_whole(equation, operands, found, here)
        return nothing
    _refuse_unknown(equation)
    if equation.primitive is primitives.gather_p and operands[0] is not None:
        found.gathered.add(operands[0].path)
    if equation.primitive is split_primitive():
        return [operands[0]] * len(equation.outvars)
    return [_moved(equation, operands), *nothing[1:]]


def _walk_bodies(
    equation: Equation, operands: list[Origin | None], found: Found, here: _Around
) -> list[Origin | None] | None:
    outputs = None
    for index, body in enumerate(bodies(equation)):
        origins = [_fed(operands[operand], how) for operand, how in body.feeds]
        inside = dataclasses.replace(
            here,
            location=(*here.location, index),
            stack=here.stack + ((body.repeats or 0,) if body.stacks else ()),
            unbounded=here.unbounded or body.repeats is None,
        )
        results = _walk(body.jaxpr, origins, found, inside)
        outputs = results if body.transparent else outputs
    return outputs


def _fed(origin: Origin | None, how: str) -> Origin | None:
    if origin is None or how is CARRIED:
        return None
    return origin._replace(axes=origin.axes[1:]) if how is SLICED else origin


def _walk_whole(
    equation: Equation, operands: list[Origin | None], found: Found, here: _Around
) -> None:
    inside = dataclasses.replace(here, opaque=equation.primitive.name)
    for jaxpr in inner_jaxprs(equation):
        same = len(jaxpr.invars) == len(operands)
        origins = operands if same else [None] * len(jaxpr.invars)
        _walk(jaxpr, origins, found, inside)


def _refuse_unknown(equation: Equation) -> None:
    for jaxpr in inner_jaxprs(equation):
        inner = Found()
        _walk(jaxpr, [None] * len(jaxpr.invars), inner, _Around())
        for contraction in inner.contractions:
            raise NotImplementedError(
                f"{source_line(equation)}: the primitive {equation.primitive.name!r} "
                f"holds a {contraction.equation.primitive.name} that compress cannot "
                "reach. Move the contraction out of it."
            )


def _moved(equation: Equation, operands: list[Origin | None]) -> Origin | None:
    """The origin of an equation's result, if it only moved a parameter's elements."""
    primitive, params = equation.primitive, equation.params
    if primitive is primitives.mul_p:
        return _scaled(equation, operands)
    origin = operands[0] if operands else None
    if origin is None:
        return None
    if primitive is primitives.transpose_p:
        axes = tuple(origin.axes[axis] for axis in params["permutation"])
    elif primitive is primitives.squeeze_p:
        gone = params["dimensions"]
        axes = tuple(a for i, a in enumerate(origin.axes) if i not in gone)
    elif primitive is primitives.broadcast_in_dim_p:
        spread: list[tuple[int, ...]] = [()] * len(params["shape"])
        for axis, target in enumerate(params["broadcast_dimensions"]):
            spread[target] = origin.axes[axis]
        axes = tuple(spread)
    elif primitive is primitives.reshape_p:
        axes = _reshaped(origin, equation)
    elif primitive in _SAME_AXES:
        axes = origin.axes
    else:
        return None
    return origin._replace(axes=axes)


_SAME_AXES = (
    *UNCHANGED,
    primitives.convert_element_type_p,
    primitives.rev_p,
    primitives.slice_p,
    primitives.dynamic_slice_p,
)


def _reshaped(origin: Origin, equation: Equation) -> tuple[tuple[int, ...], ...]:
    shape, new = shape_of(equation.invars[0]), equation.params["new_sizes"]
    order = equation.params["dimensions"] or range(len(shape))
    axes: list[tuple[int, ...]] = [()] * len(new)
    for left, right in reshape_blocks([shape[i] for i in order], new):
        covered = tuple(axis for i in left for axis in origin.axes[order[i]])
        for target in right:
            axes[target] = covered if new[target] != 1 else ()
    return tuple(axes)


def _scaled(equation: Equation, operands: list[Origin | None]) -> Origin | None:
    """A parameter times a scalar is still that parameter."""
    known = [(i, x) for i, x in enumerate(operands) if x is not None]
    if len(known) != 1:
        return None
    index, origin = known[0]
    other = shape_of(equation.invars[1 - index])
    return origin if math.prod(other) == 1 else None
