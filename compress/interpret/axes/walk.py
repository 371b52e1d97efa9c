"""Follows every axis through a traced program.

Equations are recorded by location, which tells call paths apart: inner programs are
cached and shared between their callers, whose axes have nothing to do with each other.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import primitives

from compress.interpret.axes import moves, sums
from compress.interpret.axes.elementwise import ELEMENTWISE, elementwise, literal_of
from compress.interpret.axes.nodes import Node, atom, atoms, freeze, unify
from compress.interpret.axes.values import Value, cut, opaque
from compress.interpret.nested import (
    CARRIED,
    SLICED,
    WHOLE,
    Body,
    bodies,
    called_body,
)
from compress.interpret.program import (
    Equation,
    Location,
    Program,
    is_literal,
    shape_of,
    shard_map_p,
    source_line,
)
from compress.interpret.provenance import CONTRACTIONS

RULES = {**moves.RULES, **sums.RULES}
_KEEPS_NUMBER = (
    primitives.convert_element_type_p,
    primitives.copy_p,
    primitives.reshape_p,
    primitives.squeeze_p,
    primitives.transpose_p,
)


@dataclasses.dataclass(frozen=True)
class Here:
    """Where the walk is.

    Attributes:
      location: Of the equation, or of the body around it.
      scans: Locations of the scans around it, outermost first.
      repeats: How often each of them runs its body, as an axis.
      line: The user's; inside a function of JAX that of its call.
    """

    location: Location = ()
    scans: tuple[Location, ...] = ()
    repeats: tuple[Node, ...] = ()
    line: str = ""


@dataclasses.dataclass
class Axes:
    """The axes of every value of a program.

    Attributes:
      equations: By location, the operands and the results of an equation that meets
        something that is not constant.
      bodies: By location of a body, its inputs and its results.
      contractions: For each contraction the axes whose sizes multiply to its products.
      scans: For each scan that carries something, its length.
      places: For each axis, the scans within which values have it.
    """

    equations: dict[Location, tuple[list[Value], list[Value]]] = dataclasses.field(
        default_factory=dict
    )
    bodies: dict[Location, tuple[list[Value], list[Value]]] = dataclasses.field(
        default_factory=dict
    )
    contractions: dict[Location, list[Node]] = dataclasses.field(default_factory=dict)
    scans: dict[Location, Node] = dataclasses.field(default_factory=dict)
    places: list[tuple[tuple[Location, ...], Node]] = dataclasses.field(
        default_factory=list
    )

    def walk(
        self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Value], here: Here
    ) -> list[Value]:
        """Follows axes through a program; returns its results."""
        depth = len(here.scans)
        known = dict(zip(jaxpr.constvars, [_constant(c, depth) for c in consts]))
        known.update(zip(jaxpr.invars, inputs, strict=True))

        def read(operand: Any) -> Value:
            return _literal(operand, depth) if is_literal(operand) else known[operand]

        for index, equation in enumerate(jaxpr.eqns):
            line = source_line(equation) or here.line
            location = (*here.location, index)
            at = dataclasses.replace(here, location=location, line=line)
            operands = [read(operand) for operand in equation.invars]
            known.update(zip(equation.outvars, self._visit(equation, operands, at)))
        return [read(operand) for operand in jaxpr.outvars]

    def _visit(
        self, equation: Equation, operands: list[Value], here: Here
    ) -> list[Value]:
        # What a constant is spread to may have any size.
        spread = equation.primitive is primitives.broadcast_in_dim_p
        if all(value.constant for value in operands) and not spread:
            return _constants(equation, operands, len(here.scans))
        if equation.primitive is not shard_map_p and (inner := bodies(equation)):
            return self._nested(equation, inner, operands, here)
        if equation.primitive in WHOLE and (body := called_body(equation)):
            return self._body(body, 0, operands, here)
        filled = [value.literal is not None for value in operands]
        constant = [value.constant for value in operands]
        operands = [cut(value) for value in operands]
        # A constant is cut in one way for all layers.
        pairs = zip(operands, constant, filled, strict=True)
        self._place([x for x, fixed, same in pairs if fixed and not same], Here())
        results = self._apply(equation, operands, here)
        self.equations[here.location] = (operands, results)
        if equation.primitive in CONTRACTIONS:
            sizes = sums.contraction_sizes(equation, operands, results[0])
            self.contractions[here.location] = [*here.repeats, *sizes]
        self._place([*operands, *results], here)
        return results

    def _apply(
        self, equation: Equation, operands: list[Value], here: Here
    ) -> list[Value]:
        where = here.line
        if equation.primitive in ELEMENTWISE:
            results = [elementwise(equation, operands, where)]
        elif equation.primitive in RULES:
            results = RULES[equation.primitive](equation, operands, where)
        else:
            reason = f"goes through {equation.primitive.name}, {where}"
            for value in operands:
                freeze(value.axes, reason)
            shapes = [shape_of(out) for out in equation.outvars]
            results = [opaque(shape, len(here.scans), reason) for shape in shapes]
        weight = all(x.weight for x in operands)
        return [dataclasses.replace(x, weight=weight) for x in results]

    def _place(self, values: Sequence[Value], here: Here) -> None:
        self.places += [
            (here.scans, node)
            for value in values
            if value.path is None
            for node in value.axes
        ]

    def _nested(
        self,
        equation: Equation,
        inner: Sequence[Body],
        operands: list[Value],
        here: Here,
    ) -> list[Value]:
        if inner[0].transparent:
            return self._body(inner[0], 0, operands, here)
        feeds = {i: how for body in inner for i, how in body.feeds}
        operands = [
            cut(value) if feeds.get(i, CARRIED) in (CARRIED, SLICED) else value
            for i, value in enumerate(operands)
        ]
        sliced = [i for i, how in feeds.items() if how is SLICED]
        moved = [x for i, x in enumerate(operands) if i not in sliced]
        self._place([x for x in moved if not x.constant], here)
        self._place([operands[i] for i in sliced], here)
        if inner[0].stacks:
            results = self._scan(equation, inner[0], operands, here)
        else:
            results = self._branches(equation, inner, operands, here)
        self.equations[here.location] = (operands, results)
        self._place(results, here)
        return results

    def _body(
        self, body: Body, index: int, inputs: Sequence[Value], here: Here
    ) -> list[Value]:
        """A body that is part of the program around it."""
        inside = dataclasses.replace(here, location=(*here.location, index))
        results = self.walk(body.jaxpr, body.consts, inputs, inside)
        self.bodies[inside.location] = (list(inputs), results)
        return results

    def _branches(
        self,
        equation: Equation,
        inner: Sequence[Body],
        operands: list[Value],
        here: Here,
    ) -> list[Value]:
        """cond and while: the results of all bodies, and what is carried, are one."""
        where = here.line
        carried = [
            _outside(operands[i]) for i, how in inner[-1].feeds if how is CARRIED
        ]
        while True:
            results = []
            for index, body in enumerate(inner):
                rounds = iter(carried)
                inputs = [
                    next(rounds) if how is CARRIED else operands[i]
                    for i, how in body.feeds
                ]
                outputs = [cut(x) for x in self._body(body, index, inputs, here)]
                location = (*here.location, index)
                self.bodies[location] = (self.bodies[location][0], outputs)
                if not body.decides:
                    results.append(outputs)
            merged = [_merged(column, where) for column in zip(*results, strict=True)]
            again = [_merged(pair, where) for pair in zip(carried, merged)]
            if [x.zeros for x in again] == [x.zeros for x in carried]:
                return [*again, *merged[len(again) :]]
            carried = again

    def _scan(
        self, equation: Equation, body: Body, operands: list[Value], here: Here
    ) -> list[Value]:
        """Inputs lose their first axis, results gain it; what is carried keeps its."""
        where, length = here.line, atom(body.repeats)
        inside = Here(
            (*here.location, 0),
            (*here.scans, here.location),
            (*here.repeats, length),
            here.line,
        )
        feeds = [(operands[i], how) for i, how in body.feeds]
        for value, how in feeds:
            if how is SLICED:
                unify(value.axes[0], length, where)
        zeros = [value.zeros for value, how in feeds if how is CARRIED]
        while True:
            inputs = _scan_inputs(feeds, zeros)
            raw = self.walk(body.jaxpr, body.consts, inputs, inside)
            results = [cut(value) for value in raw]
            self.bodies[inside.location] = (inputs, results)
            carried = [x for x, (_, how) in zip(inputs, feeds) if how is CARRIED]
            pairs = list(zip(carried, results))
            again = [_merged(pair, where).zeros for pair in pairs]
            if again == zeros:
                break
            zeros = again
        if pairs:
            self.scans[here.location] = length
        if not all(out.carry == x.carry for x, out in pairs):
            freeze([length], f"layers of a scan that is not residual, {where}")
        stacked = [_stacked(x, length) for x in results[len(pairs) :]]
        return [*(_left(x, z) for x, z in zip(carried, zeros)), *stacked]


def _scan_inputs(feeds: Sequence[tuple[Value, str]], zeros: Any) -> list[Value]:
    inputs, rounds = [], iter(range(len(feeds)))
    for value, how in feeds:
        if how is SLICED:
            inside = dataclasses.replace(
                value,
                axes=value.axes[1:],
                zeros=value.zeros[1:],
                layers=(*value.layers, value.zeros[0]),
                path=value.path,
            )
        elif how is CARRIED:
            number = next(rounds)
            layers = (*value.layers, value.is_zero)
            inside = Value(value.axes, zeros[number], layers, carry=number)
        else:
            layers = (*value.layers, value.is_zero)
            inside = dataclasses.replace(value, layers=layers, carry=None)
        inputs.append(inside)
    return inputs


def _stacked(value: Value, length: Node) -> Value:
    return Value(
        (length, *value.axes), (value.layers[-1], *value.zeros), value.layers[:-1]
    )


def _left(value: Value, zeros: tuple[bool, ...]) -> Value:
    """What was carried, after the scan."""
    return Value(value.axes, zeros, (False,) * (len(value.layers) - 1))


def _outside(value: Value) -> Value:
    return Value(value.axes, value.zeros, (False,) * len(value.layers))


def _merged(values: Sequence[Value], where: str) -> Value:
    """Values of which any may be the result."""
    first, zeros = values[0], list(values[0].zeros)
    for other in values[1:]:
        for axis, node in enumerate(other.axes):
            unify(first.axes[axis], node, where)
            zeros[axis] = zeros[axis] and other.zeros[axis]
    return Value(first.axes, tuple(zeros), (False,) * len(first.layers))


def _literal(operand: Any, depth: int) -> Value:
    shape, number = shape_of(operand), literal_of(operand.val)
    return _number(shape, depth, number)


def _constant(array: Any, depth: int) -> Value:
    number = literal_of(array) if isinstance(array, (np.ndarray, np.generic)) else None
    return _number(tuple(np.shape(array)), depth, number)


def _number(shape: Sequence[Any], depth: int, number: float | None) -> Value:
    zero = number == 0.0
    return Value(
        atoms(shape),
        (zero,) * len(shape),
        (zero,) * depth,
        literal=number,
        constant=True,
    )


def _constants(
    equation: Equation, operands: Sequence[Value], depth: int
) -> list[Value]:
    """Computed at the original size."""
    number = None
    if len(operands) == 1 and equation.primitive in _KEEPS_NUMBER:
        number = operands[0].literal
    return [_number(shape_of(out), depth, number) for out in equation.outvars]


def find_axes(program: Program, inputs: Sequence[Value]) -> tuple[Axes, list[Value]]:
    """The axes of a program's values, and of its results."""
    axes = Axes()
    results = axes.walk(program.jaxpr, program.consts, inputs, Here())
    results = [cut(value) for value in results]
    axes.bodies[()] = (list(inputs), results)
    return axes, results
