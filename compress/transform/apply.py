"""Applies a transform to a function: the compressed function is a function."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from compress.annotations import Array, PyTree
from compress.interpret import (
    Equation,
    Product,
    Program,
    contract,
    evaluate,
    float_product,
    trace,
)
from compress.sites import (
    Site,
    Sites,
    find_sites,
    find_sites_in,
    flat_paths,
    flatten_parameters,
)
from compress.transform.chain import parameters as seen_parameters
from compress.transform.interface import State, Transform

# tap(site, equation, operands, product) -> arrays to collect: looks at what a site
# multiplies, instead of what its transforms observe there.
Tap = Callable[[Site, Equation, Any, Product], Any]
# product(site, equation, lhs, rhs) -> the exact contraction of two integer operands
SiteProduct = Callable[[Site, Equation, Array, Array], Array]


def init(
    forward: Callable[..., Any], transform: Transform, params: PyTree, *inputs: Any
) -> State:
    """The state of `transform` before the first step.

    Args:
      forward: Any JAX function of parameters and inputs.
      transform: What to apply.
      params: Its parameters.
      *inputs: Example inputs; only shapes and dtypes matter.

    Raises:
      ValueError: If a rule matches no site, or a parameter holds NaN or infinity.
    """
    check_finite(params)
    sites = find_sites(forward, params, *inputs)
    return State(jnp.zeros((), jnp.int32), transform.init(params, sites))


def apply(forward: Callable[..., Any], transform: Transform) -> Callable[..., Any]:
    """`forward`, compressed: a pure function `(params, state, *inputs) -> outputs`."""
    observing = observe(forward, transform)

    def compressed(params: PyTree, state: State, *inputs: Any) -> Any:
        return observing(params, state, *inputs)[0]

    return compressed


def observe(
    forward: Callable[..., Any],
    transform: Transform,
    tap: Tap | None = None,
    *,
    shifted: bool = False,
) -> Callable[..., Any]:
    """Like `apply`, and returns what the transform, or a tap, observed at each site.

    Args:
      forward: Any JAX function of parameters and inputs.
      transform: What to apply.
      tap: Observes instead of the transform.
      shifted: Whether depthwise convolutions in float32 are computed as sums of shifted
        inputs: much faster on CPU, and rounded otherwise than in `forward`.

    Returns:
      `(params, state, *inputs) -> (outputs, observed)`; `observed` is for `update`.
    """

    def compressed(params: PyTree, state: State, *inputs: Any) -> Any:
        program = trace(forward, params, *inputs)
        sites = find_sites_in(program, params)
        seen = seen_parameters(transform, params, state)
        given = transform.given(state.memory) if transform.given else {}
        return run_compressed(
            program,
            transform,
            sites,
            seen,
            given,
            state,
            inputs,
            tap=tap,
            shifted=shifted,
        )

    return compressed


def run_compressed(
    program: Program,
    transform: Transform,
    sites: Sites,
    seen: PyTree,
    given: Mapping[str, Any],
    state: State,
    inputs: Any,
    product: SiteProduct | None = None,
    tap: Tap | None = None,
    shifted: bool = False,
) -> tuple[Any, dict[str, Any]]:
    """Evaluates a traced program as `transform` wants it.

    Args:
      program: Traced as `forward(params, *inputs)`.
      transform: Decides the operands at each site.
      sites: Of the program.
      seen: The parameters as the program shall see them; leaves may be `Quantized`.
      given: What the transform is given at each site.
      state: Of the transform; only the step is read.
      inputs: Of the program.
      product: How the integers of a site are multiplied; None carries them in floats.
      tap: Looks at the operands of each site.
      shifted: As in `observe`.

    Returns:
      The outputs, and what was observed at each site, by the tap if there is one.
    """
    by_name = {site.name: site for site in sites.weighted}

    def handler(name: str, equation: Any, operands: Any, given: Any) -> Any:
        observed, site = None, by_name[name]
        if transform.operands is not None:
            operands, observed = transform.operands(site, given, state.step, operands)
        multiply = partial(product, site) if product else float_product
        if tap is not None:
            observed = tap(site, equation, operands, multiply)
        return [contract(equation, operands, multiply, shifted=shifted)], observed

    _, leaves, _ = flatten_parameters(seen)
    outputs, observed = evaluate(
        program,
        [*leaves, *jax.tree.leaves(inputs)],
        names={site.location: site.name for site in sites.weighted},
        handler=handler,
        given={name: value for name, value in given.items() if name in by_name},
    )
    return jax.tree.unflatten(program.out_tree, outputs), observed


def check_finite(params: PyTree) -> None:
    """Refuses parameters with NaN or infinity; shapes and tracers pass.

    Raises:
      ValueError: That names the first such parameter.
    """
    for path, leaf in zip(flat_paths(params), jax.tree.leaves(params), strict=True):
        concrete = not isinstance(leaf, (jax.core.Tracer, jax.ShapeDtypeStruct))
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        if concrete and floating and not bool(jnp.isfinite(leaf).all()):
            raise ValueError(
                f'parameter "{path}" holds NaN or infinity. Restore it from an earlier '
                "checkpoint, or train again with a lower learning rate."
            )
