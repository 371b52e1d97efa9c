"""The primitives that hold programs: the one file that reads their parameters.

Each is told in two ways: `bodies` says how operands reach the inner programs (for
analysis), and a rule rebuilds it through JAX's public functions (for evaluation).
scan stacks what it collects and slices what it is given; cond branches collect the
same things; while refuses to collect. What the devices of a shard_map collect becomes
the largest over them, without a gradient.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params, primitives

from compress.interpret.boxes import Quantized, unbox, unshare
from compress.interpret.program import (
    Equation,
    open_jaxpr,
    shard_map_p,
    source_line,
)

FED, CARRIED, SLICED = "fed", "carried", "sliced"


class Body(NamedTuple):
    """One program inside an equation.

    Attributes:
      jaxpr: The inner jaxpr, open.
      consts: Its constants.
      feeds: For each inner input, the operand that feeds it and how: `fed` as it
        is, `carried` round a loop, or `sliced` along its leading axis.
      repeats: How often it runs; None if only known when it runs.
      stacks: Whether what it collects comes out stacked over its repeats.
      transparent: Whether its results are the equation's results, unchanged.
      decides: Whether its results only decide what else runs.
      devices: How many devices each run it on a part of the data.
      backwards: Whether a loop goes from its last slice to its first.
    """

    jaxpr: Any
    consts: Sequence[Any]
    feeds: tuple[tuple[int, str], ...]
    repeats: int | None = 1
    stacks: bool = False
    transparent: bool = False
    decides: bool = False
    devices: int = 1
    backwards: bool = False


# recurse(body_index, operands, scope) -> outputs: evaluates one body.
Recurse = Callable[[int, Sequence[Any], Any], list[Any]]


def _feeds(count: int, kind: str = FED, start: int = 0) -> tuple[tuple[int, str], ...]:
    return tuple((start + index, kind) for index in range(count))


def _inline_bodies(equation: Equation) -> list[Body]:
    inner = next(
        equation.params[key]
        for key in ("jaxpr", "call_jaxpr")
        if key in equation.params
    )
    jaxpr, consts = open_jaxpr(inner)
    return [Body(jaxpr, consts, _feeds(len(equation.invars)), transparent=True)]


def _scan_counts(equation: Equation) -> tuple[int, int]:
    """How many operands of a scan are constants and how many are carried."""
    params = equation.params
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    # jax 0.11 keeps a tree of (constants, carry, xs) instead of two counts.
    consts, carry, _ = params["ft_in"].unpack()
    return len(list(consts)), len(list(carry))


def _scan_bodies(equation: Equation) -> list[Body]:
    num_consts, num_carry = _scan_counts(equation)
    jaxpr, consts = open_jaxpr(equation.params["jaxpr"])
    num_fixed = num_consts + num_carry
    feeds = (
        _feeds(num_consts)
        + _feeds(num_carry, CARRIED, num_consts)
        + _feeds(len(equation.invars) - num_fixed, SLICED, num_fixed)
    )
    length, backwards = equation.params["length"], equation.params["reverse"]
    return [
        Body(jaxpr, consts, feeds, repeats=length, stacks=True, backwards=backwards)
    ]


def _while_bodies(equation: Equation) -> list[Body]:
    params = equation.params
    num_test, num_step = params["cond_nconsts"], params["body_nconsts"]
    first = num_test + num_step
    carry = _feeds(len(equation.invars) - first, CARRIED, first)
    parts = (
        (params["cond_jaxpr"], _feeds(num_test)),
        (params["body_jaxpr"], _feeds(num_step, FED, num_test)),
    )
    test, step = (
        Body(*open_jaxpr(jaxpr), feeds + carry, repeats=None) for jaxpr, feeds in parts
    )
    return [test._replace(decides=True), step]


def _cond_bodies(equation: Equation) -> list[Body]:
    feeds = _feeds(len(equation.invars) - 1, FED, 1)
    return [Body(*open_jaxpr(b), feeds) for b in equation.params["branches"]]


def _shard_map_bodies(equation: Equation) -> list[Body]:
    params = equation.params
    jaxpr, consts = open_jaxpr(params["jaxpr"])
    split = {axis for spec in params["in_specs"] for axis in _mesh_axes(spec)}
    devices = math.prod(params["mesh"].shape[axis] for axis in split)
    return [Body(jaxpr, consts, _feeds(len(equation.invars)), devices=devices)]


def _mesh_axes(spec: Any) -> list[str]:
    """The axes of a mesh that the axes of an array are split over."""
    parts = [(x,) if isinstance(x, str) else x or () for x in spec]
    return [axis for part in parts for axis in part]


def _inline(equation: Equation, operands: Any, scope: Any, recurse: Recurse) -> Any:
    return recurse(0, operands, scope)


def _remat(equation: Equation, operands: Any, scope: Any, recurse: Recurse) -> Any:
    def body(operands: Any, given: Any) -> Any:
        inner = scope.child(given)
        return recurse(0, operands, inner), inner.collected

    params = equation.params
    rematted = jax.checkpoint(
        body, prevent_cse=params["prevent_cse"], policy=params["policy"]
    )
    outputs, collected = rematted(list(operands), scope.given_inside())
    scope.collected.update(collected)
    return outputs


def _scan(equation: Equation, operands: Any, scope: Any, recurse: Recurse) -> Any:
    num_consts, num_carry = _scan_counts(equation)
    consts = operands[:num_consts]
    carry = [unbox(x) for x in operands[num_consts : num_consts + num_carry]]
    stacked = [
        unshare(x, axis=0) if isinstance(x, Quantized) else x
        for x in operands[num_consts + num_carry :]
    ]

    def step(carry: Any, sliced: Any) -> Any:
        slices, given = sliced
        inner = scope.child(given)
        outputs = recurse(0, [*consts, *carry, *slices], inner)
        outputs = [unbox(x) for x in outputs]
        return outputs[:num_carry], (outputs[num_carry:], inner.collected)

    params = equation.params
    carry, (results, collected) = jax.lax.scan(
        step,
        carry,
        (stacked, scope.given_inside()),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    scope.collected.update(collected)
    return [*carry, *results]


def _while(equation: Equation, operands: Any, scope: Any, recurse: Recurse) -> Any:
    params = equation.params
    num_test = params["cond_nconsts"]
    first = num_test + params["body_nconsts"]
    fixed, carry = operands[:first], [unbox(x) for x in operands[first:]]

    def run(index: int, consts: Any, carry: Any) -> list[Any]:
        inner = scope.child(scope.given)
        outputs = recurse(index, [*consts, *carry], inner)
        for name in inner.collected:
            raise NotImplementedError(
                f'observe "{name}": inside a while loop ({source_line(equation)}), '
                "whose length is unknown. Use scan, dynamic activations, or exclude "
                "the site."
            )
        return [unbox(x) for x in outputs]

    return jax.lax.while_loop(
        lambda carry: run(0, fixed[:num_test], carry)[0],
        lambda carry: run(1, fixed[num_test:], carry),
        carry,
    )


def _cond(equation: Equation, operands: Any, scope: Any, recurse: Recurse) -> Any:
    index, *operands = operands

    def branch(number: int) -> Callable[[Any], Any]:
        def run(operands: Any) -> Any:
            inner = scope.child(scope.given)
            outputs = recurse(number, operands, inner)
            return [unbox(x) for x in outputs], inner.collected

        return run

    branches = [branch(n) for n in range(len(equation.params["branches"]))]
    shapes = [jax.eval_shape(run, operands)[1] for run in branches]
    everything = {name: shape for each in shapes for name, shape in each.items()}

    def filled(run: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """A branch not taken has seen nothing: zeros, with a count of zero."""

        def run_filled(operands: Any) -> Any:
            outputs, collected = run(operands)
            zeros = {
                name: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shape)
                for name, shape in everything.items()
                if name not in collected
            }
            return outputs, dict(sorted({**collected, **zeros}.items()))

        return run_filled

    outputs, collected = jax.lax.switch(index, [filled(b) for b in branches], operands)
    scope.collected.update(collected)
    return outputs


def _shard_map(equation: Equation, operands: Any, scope: Any, recurse: Recurse) -> Any:
    params = equation.params
    manual = tuple(sorted(params["newly_manual_axes"]))
    leaves, structure = jax.tree.flatten(list(operands))

    def body(leaves: Any, given: Any) -> Any:
        inner = scope.child(given)
        outputs = recurse(0, jax.tree.unflatten(structure, leaves), inner)
        fixed = jax.lax.stop_gradient(inner.collected)
        largest = jax.tree.map(lambda x: _largest(x, manual), fixed)
        return [unbox(x) for x in outputs], largest

    everywhere = jax.sharding.PartitionSpec()
    pairs = zip(operands, params["in_specs"], strict=True)
    specs = [spec for operand, own in pairs for spec in _specs(operand, own)]
    mapped = jax.shard_map(
        body,
        mesh=params["mesh"],
        in_specs=(specs, everywhere),
        out_specs=(list(params["out_specs"]), everywhere),
        axis_names=params["newly_manual_axes"],
        check_vma=params["check_vma"],
    )
    outputs, collected = mapped(leaves, scope.given_inside())
    scope.collected.update(collected)
    return outputs


def _largest(x: Any, axes: Sequence[str]) -> Any:
    """The largest over all devices of a mesh's axes."""
    # pmax wants a value that differs along each of them; this one it gets from zeros.
    indices = [jax.lax.axis_index(axis) for axis in axes]
    zero = jnp.sum(jnp.stack(indices)) * 0
    return jax.lax.pmax(x + zero.astype(x.dtype), axes)


def _specs(operand: Any, spec: Any) -> list[Any]:
    """How an operand is split over a mesh; of a box, its integers and its scale."""
    if not isinstance(operand, Quantized):
        return [spec]
    sizes = operand.scale.shape
    split = [None if size == 1 else axis for size, axis in zip(sizes, spec)]
    return [spec, jax.sharding.PartitionSpec(*split)]


_BODIES = {
    primitives.jit_p: _inline_bodies,
    primitives.closed_call_p: _inline_bodies,
    primitives.remat_p: _inline_bodies,
    primitives.scan_p: _scan_bodies,
    primitives.while_p: _while_bodies,
    primitives.cond_p: _cond_bodies,
    shard_map_p: _shard_map_bodies,
}
_RULES = {
    primitives.jit_p: _inline,
    primitives.closed_call_p: _inline,
    primitives.remat_p: _remat,
    primitives.scan_p: _scan,
    primitives.while_p: _while,
    primitives.cond_p: _cond,
    shard_map_p: _shard_map,
}
# Kept whole, so that the author's gradient survives; sites inside are skipped.
WHOLE = (primitives.custom_jvp_call_p, primitives.custom_vjp_call_p)


def with_length(equation: Equation, length: int) -> Equation:
    """A scan over fewer slices."""
    return equation.replace(params={**equation.params, "length": length})


def bodies(equation: Equation) -> list[Body]:
    """The programs inside an equation we can walk into; none for an ordinary one."""
    find = _BODIES.get(equation.primitive)
    return find(equation) if find else []


def called_body(equation: Equation) -> Body | None:
    """What an equation that is kept whole computes, without its own gradient."""
    if equation.primitive not in WHOLE:
        return None
    jaxpr, consts = open_jaxpr(next(iter(jaxprs_in_params(equation.params))))
    return Body(jaxpr, consts, _feeds(len(equation.invars)), transparent=True)


def rebuild_rule(equation: Equation) -> Any:
    """How to evaluate a nested equation; None for an ordinary one."""
    return _RULES.get(equation.primitive)


def inner_jaxprs(equation: Equation) -> list[Any]:
    """Every jaxpr among an equation's parameters, known primitive or not."""
    return [open_jaxpr(jaxpr)[0] for jaxpr in jaxprs_in_params(equation.params)]
