"""Finds the site where the served program leaves the trained one.

Both are evaluated with a tap at every site. The trained run multiplies its own operands
the served way too, so a wrong product shows at its site, whatever came before it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compress.annotations import PyTree
from compress.export.lower import Lowering
from compress.export.pack import Packed
from compress.export.program import serving_function
from compress.interpret import Product, Quantized
from compress.sites import Site, find_sites
from compress.transform import SiteProduct, State, Transform, observe

# Below this, float32 holds every partial sum of products of int8 exactly.
_EXACT = 2**24 // 127**2
# A rounding between two sites moves an integer by one step.
_ROUNDING = 1


class Tapped(NamedTuple):
    """What was multiplied at a site of two quantized operands.

    Attributes:
      lhs: Integers of the left operand.
      rhs: Of the right one.
      total: Their contraction.
      served: The same contraction as the served program computes it.
    """

    lhs: Any
    rhs: Any
    total: Any
    served: Any


def _tap(
    served: SiteProduct, site: Site, equation: Any, operands: Any, product: Product
) -> Tapped | None:
    if not all(isinstance(x, Quantized) for x in operands[:2]):
        return None
    (lhs, rhs), others = (x.qvalue for x in operands[:2]), operands[2:]
    # The weight is shipped in int8; in training a float carries it.
    shipped = [lhs, rhs]
    shipped[site.weight_side or 0] = shipped[site.weight_side or 0].astype(jnp.int8)
    total = product(equation, lhs, rhs, *others)
    return Tapped(lhs, rhs, total, served(site, equation, *shipped, *others))


class Model(NamedTuple):
    """What was trained, and what is shipped of it."""

    forward: Callable[..., Any]
    transform: Transform
    params: PyTree
    state: State
    packed: Packed
    first: tuple[PyTree, ...]

    def trained(self, compressed: Callable[..., Any]) -> Callable[..., Any]:
        """The forward pass as it was trained, `(*inputs) -> outputs`.

        Args:
          compressed: `Shared.trained` of this forward and transform.
        """
        return partial(compressed, self.params, self.state, *self.first)


def tapped_sites(
    model: Model, inputs: Sequence[Any], lowering: Lowering | None = None
) -> list[tuple[Site, Tapped, Tapped]]:
    """Each quantized site with what the trained and the served run multiplied there."""
    forward, transform, params, state, packed, first = model
    lowering = lowering or Lowering()
    tap = partial(_tap, lowering.product)
    serve = serving_function(forward, transform, packed, params, state, lowering, tap)
    trained = jax.jit(observe(forward, transform, tap))
    ours = jax.device_get(jax.jit(serve)(packed.weights, *inputs)[1])
    theirs = jax.device_get(trained(params, state, *first, *inputs)[1])
    sites = find_sites(forward, params, *first, *inputs)
    return [
        (site, theirs[site.name], ours[site.name])
        for site in sites.weighted
        if site.name in theirs and site.name in ours
    ]


def parting_site(
    model: Model, inputs: Sequence[Any], lowering: Lowering | None = None
) -> str:
    """A sentence that names the site where the two programs part."""
    before = None
    for site, trained, shipped in tapped_sites(model, inputs, lowering):
        for wrong in (_product(site, trained), _operands(site, trained, shipped)):
            if wrong:
                where = f'They part at site "{site.name}" ({site.source}): {wrong}'
                return where + (f' Before it, "{before}" agrees.' if before else "")
        before = site.name
    if before is None:
        return "No site is in integers."
    return (
        f'Every site agrees, up to "{before}": they part after it, or the compiled '
        "program computes something else than was traced."
    )


def _product(site: Site, trained: Tapped) -> str | None:
    """Whether the served product of the trained operands is another number."""
    allowed = allowed_difference(site)
    found = np.asarray(trained.served, np.float64)
    expected = np.asarray(trained.total, np.float64)
    wrong = np.abs(found - expected) > allowed
    if not wrong.any():
        return None
    first = tuple(int(i) for i in np.argwhere(wrong)[0])
    return (
        f"its product of the same integers is {found[first]:.0f} instead of "
        f"{expected[first]:.0f} at {list(first)}; {wrong.sum()} of {wrong.size} differ."
    )


def allowed_difference(site: Site) -> float:
    """How far a sum carried in float32 may be from the integer one; mostly 0."""
    summed = int(np.prod([site.weight_shape[axis] for axis in site.contracting]))
    return 0.0 if summed <= _EXACT else summed * 127.0**2 * summed * 2.0**-24


def _operands(site: Site, trained: Tapped, shipped: Tapped) -> str | None:
    """Whether an operand differs by more than a rounding; a weight by anything."""
    for side, (ours, theirs) in enumerate(
        ((shipped.lhs, trained.lhs), (shipped.rhs, trained.rhs))
    ):
        is_weight = side == site.weight_side
        steps = np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64))
        if (steps > (0 if is_weight else _ROUNDING)).any():
            return (
                f"the integers of its {'weight' if is_weight else 'input'} differ by "
                f"up to {steps.max():.0f} ({(steps > 0).sum()} of {steps.size} do)."
            )
    return None
