"""A traced program: a jaxpr with its constants and the trees around it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import source_info_util
from jax.extend.core import JaxprEqn as Equation
from jax.extend.core import Literal

# Where an equation stands: its index in the program, then for each nested program
# the body it is in and its index there, `(3, 0, 12)`.
Location = tuple[int, ...]


class Program(NamedTuple):
    """A function, traced.

    Attributes:
      jaxpr: The open jaxpr.
      consts: Arrays the function closed over.
      in_tree: Structure of its positional arguments.
      out_tree: Structure of its result.
    """

    jaxpr: Any
    consts: Sequence[Any]
    in_tree: Any
    out_tree: Any


def trace(function: Callable[..., Any], *args: Any) -> Program:
    """Traces `function(*args)`; arrays may be `jax.ShapeDtypeStruct`s or tracers."""
    closed, out_shape = jax.make_jaxpr(function, return_shape=True)(*args)
    jaxpr, consts = open_jaxpr(closed)
    return Program(
        jaxpr, consts, jax.tree.structure(args), jax.tree.structure(out_shape)
    )


def open_jaxpr(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """Splits a jaxpr from its constants (jax 0.11 merged the two kinds of jaxpr)."""
    return getattr(jaxpr, "jaxpr", jaxpr), tuple(getattr(jaxpr, "consts", ()))


# Primitives that `jax.extend` does not list are found by tracing what makes them, here,
# where no mesh of a user's is in force.


def _equations(
    function: Callable[..., Any], *shapes: tuple[int, ...]
) -> list[Equation]:
    examples = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return open_jaxpr(jax.make_jaxpr(function)(*examples))[0].eqns


def _sharded(x: Any) -> Any:
    """Everything that a shard_map may hold."""
    spec = jax.sharding.PartitionSpec
    mesh = jax.sharding.AbstractMesh((1,), ("x",))

    def body(x: Any) -> Any:
        varying = jax.lax.pcast(x, "x", to="varying")
        return jax.lax.all_gather(varying, "x", tiled=True)

    return jax.shard_map(body, mesh=mesh, in_specs=spec(), out_specs=spec("x"))(x)


def _ragged_dot(x: Any, w: Any) -> Any:
    return jax.lax.ragged_dot(x, w, jnp.ones((1,), jnp.int32))


split_p = _equations(lambda x: jax.lax.split(x, (1, 1)), (2,))[0].primitive
ragged_dot_p = _equations(_ragged_dot, (1, 1), (1, 1, 1))[-1].primitive
(_shard_map,) = _equations(_sharded, (2,))
shard_map_p = _shard_map.primitive
# Marks a value as differing between devices; puts together what they hold.
varying_p, all_gather_p = (
    equation.primitive for equation in open_jaxpr(_shard_map.params["jaxpr"])[0].eqns
)


def shape_of(atom: Any) -> tuple[Any, ...]:
    """The shape of a variable or literal; sizes may be symbolic."""
    return tuple(atom.aval.shape)


def dtype_of(atom: Any) -> Any:
    """The dtype of a variable or literal."""
    return atom.aval.dtype


def is_literal(atom: Any) -> bool:
    """True for a constant written into the equation itself."""
    return isinstance(atom, Literal)


def bind(equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """Runs one equation as it was traced; it stays the user's line."""
    params = equation.primitive.get_bind_params(equation.params)
    info = equation.source_info
    scope = source_info_util.current_name_stack() + info.name_stack
    with source_info_util.user_context(info.traceback, name_stack=scope):
        outputs = equation.primitive.bind(*operands, **params)
    return list(outputs) if equation.primitive.multiple_results else [outputs]


def source_line(equation: Equation) -> str:
    """The user's line that made an equation, `model.py:12 (forward)`."""
    summary = source_info_util.summarize(equation.source_info)
    return summary.rsplit("/", 1)[-1]
