"""A traced program: a jaxpr with its constants and the trees around it."""

import functools
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


@functools.cache
def split_primitive() -> Any:
    """The primitive of `jax.lax.split`, which `jax.extend` does not list."""
    example = jax.ShapeDtypeStruct((2,), jnp.float32)
    closed = jax.make_jaxpr(lambda x: jax.lax.split(x, (1, 1)))(example)
    return open_jaxpr(closed)[0].eqns[0].primitive


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
    """Runs one equation as it was traced."""
    params = equation.primitive.get_bind_params(equation.params)
    outputs = equation.primitive.bind(*operands, **params)
    return list(outputs) if equation.primitive.multiple_results else [outputs]


def source_line(equation: Equation) -> str:
    """The user's line that made an equation, `model.py:12 (forward)`."""
    summary = source_info_util.summarize(equation.source_info)
    return summary.rsplit("/", 1)[-1]
