"""Evaluates a traced program at the sizes that are left after pruning.

Only parameters of equations that name a size are rewritten; what neither parameters nor
inputs decide is computed as it was and cut where it meets something smaller. Functions
with derivatives of their own keep them: the derivative's program is resized as well.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import primitives

from compress.annotations import Array
from compress.interpret.axes import moves, sums
from compress.interpret.axes.nodes import (
    Kept,
    find,
    is_touched,
    kept_mask,
    new_size,
    unify,
)
from compress.interpret.axes.values import Value
from compress.interpret.axes.walk import Axes, find_axes
from compress.interpret.evaluate import Scope
from compress.interpret.nested import (
    WHOLE,
    bodies,
    called_body,
    rebuild_rule,
    with_length,
)
from compress.interpret.program import (
    Equation,
    Location,
    Program,
    bind,
    is_literal,
    source_line,
    trace,
)

_REWRITES = {**moves.REWRITES, **sums.REWRITES}

# An array and whether it is a constant, at its original size.
Sized = tuple[Any, bool]


def resize(
    program: Program, axes: Axes, kept: Kept, args: Sequence[Any], *, rescale: bool
) -> list[Any]:
    """Evaluates a program on smaller arguments.

    Args:
      program: Traced at the original sizes.
      axes: Of its values.
      kept: For each atom that loses units, which ones stay.
      args: Flat arguments, where these units are gone.
      rescale: Multiplies sums along axes that lost units by old size / new size, so
        that means stay means.

    Returns:
      The results, flat.
    """
    resizing = _Resizing(axes, kept, rescale, _touched(axes, kept))
    sized = [(x, False) for x in args]
    outputs = resizing.run(program.jaxpr, program.consts, sized, ())
    return resizing.cut(outputs, axes.bodies[()][1])


def _touched(axes: Axes, kept: Kept) -> set[Location]:
    """The equations, and those around them, that meet an axis which loses units."""
    found: set[Location] = set()
    for records in (axes.equations, axes.bodies):
        for location, values in records.items():
            nodes = [node for side in values for x in side for node in x.axes]
            if any(is_touched(node, kept) for node in nodes):
                found.update(location[:end] for end in range(len(location) + 1))
    return found


@dataclasses.dataclass(frozen=True)
class _Resizing:
    axes: Axes
    kept: Kept
    rescale: bool
    touched: set[Location]

    def run(
        self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Sized], at: Location
    ) -> list[Sized]:
        known: dict[Any, Sized] = {
            v: (x, True) for v, x in zip(jaxpr.constvars, consts)
        }
        known.update(zip(jaxpr.invars, args, strict=True))

        def read(operand: Any) -> Sized:
            return (operand.val, True) if is_literal(operand) else known[operand]

        for index, equation in enumerate(jaxpr.eqns):
            operands = [read(operand) for operand in equation.invars]
            results = self.compute(equation, operands, (*at, index))
            known.update(zip(equation.outvars, results, strict=True))
        return [read(operand) for operand in jaxpr.outvars]

    def compute(
        self, equation: Equation, operands: list[Sized], at: Location
    ) -> list[Sized]:
        constant = at not in self.axes.equations and all(x for _, x in operands)
        if constant or at not in self.touched:
            results = bind(equation, [x for x, _ in operands])
            return list(zip(results, self._flags(at, len(results), constant)))
        if equation.primitive is primitives.jit_p:
            (body,) = bodies(equation)
            return self.run(body.jaxpr, body.consts, operands, (*at, 0))
        if equation.primitive in WHOLE:
            return self._custom(equation, operands, at)
        if (rule := rebuild_rule(equation)) is not None:
            return self._rebuild(equation, operands, at, rule)
        values, results = self.axes.equations[at]
        rewrite = _REWRITES.get(equation.primitive)
        if rewrite is not None:
            params = rewrite(equation, values, results, self.kept)
            equation = equation.replace(params=params)
        outputs = bind(equation, self.cut(operands, values))
        if self.rescale and equation.primitive is primitives.reduce_sum_p:
            outputs = [self._rescaled(equation, values[0], outputs[0])]
        return [(x, False) for x in outputs]

    def _flags(self, at: Location, count: int, constant: bool) -> list[bool]:
        """Which results of a whole equation are constants."""
        if constant or at in self.axes.equations:
            return [constant] * count
        record = self.axes.bodies.get((*at, 0))
        return [x.constant for x in record[1]] if record else [False] * count

    def cut(self, operands: Sequence[Sized], values: Sequence[Value]) -> list[Any]:
        """Constants as small as what they meet."""
        return [
            self._cut(x, value) if fixed and not value.constant else x
            for (x, fixed), value in zip(operands, values, strict=True)
        ]

    def _cut(self, x: Any, value: Value) -> Any:
        for axis, node in enumerate(value.axes):
            if is_touched(node, self.kept):
                indices = np.flatnonzero(kept_mask(node, self.kept))
                x = jnp.take(x, indices, axis=axis)
        return x

    def _rescaled(self, equation: Equation, value: Value, total: Array) -> Array:
        old, new = 1, 1
        for axis in equation.params["axes"]:
            if is_touched(value.axes[axis], self.kept):
                old *= value.axes[axis].size
                new *= new_size(value.axes[axis], self.kept)
        return total if old == new else total * jnp.asarray(old / new, total.dtype)

    def _rebuild(
        self, equation: Equation, operands: list[Sized], at: Location, rule: Any
    ) -> list[Sized]:
        inner = bodies(equation)

        def recurse(index: int, arrays: Sequence[Any], scope: Scope) -> list[Any]:
            body, location = inner[index], (*at, index)
            inputs, results = self.axes.bodies[location]
            sized = [(x, v.constant) for x, v in zip(arrays, inputs, strict=True)]
            outputs = self.run(body.jaxpr, body.consts, sized, location)
            return self.cut(outputs, results)

        values = self.axes.equations[at][0] if at in self.axes.equations else None
        arrays = [x for x, _ in operands]
        if values is not None:
            arrays = self.cut(operands, values)
        if (length := self.axes.scans.get(at)) is not None:
            equation = with_length(equation, new_size(length, self.kept))
        results = rule(equation, arrays, Scope({}), recurse)
        flags = self._flags(at, len(results), False)
        return list(zip(results, flags, strict=True))

    def _custom(
        self, equation: Equation, operands: list[Sized], at: Location
    ) -> list[Sized]:
        """A function with a derivative of its own, which is resized as well."""
        body, values = called_body(equation), self.axes.bodies[(*at, 0)]
        assert body is not None
        # Only these have a derivative.
        active = [
            i
            for i, (x, fixed) in enumerate(operands)
            if not fixed and jnp.issubdtype(jnp.result_type(x), jnp.floating)
        ]

        def whole(arrays: Sequence[Any]) -> list[Any]:
            given = dict(zip(active, arrays, strict=True))
            return [given.get(i, x) for i, (x, _) in enumerate(operands)]

        def value(*arrays: Any) -> list[Any]:
            pairs = zip(whole(arrays), (fixed for _, fixed in operands))
            outputs = self.run(body.jaxpr, body.consts, list(pairs), (*at, 0))
            return [x for x, _ in outputs]

        derivative = _Derivative(self, equation, operands, values, active, whole)
        if equation.primitive is primitives.custom_jvp_call_p:
            function = jax.custom_jvp(value)
            function.defjvp(derivative.forwards)
        else:
            function = jax.custom_vjp(value)
            function.defvjp(lambda *xs: (value(*xs), xs), derivative.backwards)
        results = function(*(operands[i][0] for i in active))
        return list(zip(results, (x.constant for x in values[1]), strict=True))


@dataclasses.dataclass(frozen=True)
class _Derivative:
    """The derivative of a function that has its own, at smaller sizes.

    Attributes:
      resizing: Of the program around it.
      equation: The call.
      operands: Its operands; those not active are used as they are.
      values: What is known of its inputs and results.
      active: The operands with a derivative.
      whole: `(active arrays) -> all operands`.
    """

    resizing: _Resizing
    equation: Equation
    operands: Sequence[Sized]
    values: tuple[Sequence[Value], Sequence[Value]]
    active: Sequence[int]
    whole: Callable[[Sequence[Any]], list[Any]]

    def forwards(self, primals: Any, tangents: Any) -> Any:
        """The rule of a `jax.custom_jvp`."""

        def program(args: Any, tangents: Any) -> Any:
            return jax.jvp(self._of_active(args), self._active(args), tangents)

        inputs, results = self.values
        directions = tuple(self._avals()[i] for i in self.active)
        known = [inputs[i] for i in self.active]
        outputs = self._resized(
            trace(program, self._avals(), directions),
            [*self.whole(primals), *tangents],
            [*inputs, *known],
            [*results, *results],
        )
        half = len(outputs) // 2
        return outputs[:half], outputs[half:]

    def backwards(self, primals: Any, cotangents: Any) -> Any:
        """The backward rule of a `jax.custom_vjp`; computes the function again."""

        def program(args: Any, cotangents: Any) -> Any:
            _, pull = jax.vjp(self._of_active(args), *self._active(args))
            return pull(cotangents)

        inputs, results = self.values
        avals = [_struct(v.aval) for v in self.equation.outvars]
        outputs = self._resized(
            trace(program, self._avals(), avals),
            [*self.whole(primals), *cotangents],
            [*inputs, *results],
            [inputs[i] for i in self.active],
        )
        return tuple(outputs)

    def _avals(self) -> list[Any]:
        return [_struct(v.aval) for v in self.equation.invars]

    def _active(self, args: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(args[i] for i in self.active)

    def _of_active(self, args: Sequence[Any]) -> Callable[..., list[Any]]:
        def call(*arrays: Any) -> list[Any]:
            operands = list(args)
            for i, x in zip(self.active, arrays, strict=True):
                operands[i] = x
            return bind(self.equation, operands)

        return call

    def _resized(
        self,
        program: Program,
        arrays: Sequence[Any],
        inputs: Sequence[Value],
        results: Sequence[Value],
    ) -> list[Any]:
        where, kept = source_line(self.equation), self.resizing.kept
        plain = [Value(x.axes, x.zeros, constant=x.constant) for x in inputs]
        axes, outputs = find_axes(program, plain)
        for mine, other in zip(outputs, results, strict=True):
            for a, b in zip(mine.axes, other.axes, strict=True):
                unify(a, b, where)
        if any(find(node) is not node for node in kept):
            raise NotImplementedError(
                f"{where}: the derivative of a function with its own derivative joins "
                "axes that the function keeps apart. Exclude their groups."
            )
        resizing = _Resizing(axes, kept, False, _touched(axes, kept))
        fixed = [x.constant for x in inputs]
        pairs = list(zip(arrays, fixed, strict=True))
        found = resizing.run(program.jaxpr, program.consts, pairs, ())
        return resizing.cut(found, outputs)


def _struct(aval: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)
