"""What a model costs as a polynomial in the sizes of its groups."""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from compress.interpret.axes import Node, find
from compress.interpret.axes.nodes import PRODUCT, SUM
from compress.sites import Group, Groups, Sites
from compress.sites.groups import STATE

# What is added up: so many times the product of the sizes of these axes.
Cost = Iterable[tuple[int | Fraction, Sequence[Node]]]
FLOAT_BITS = 32


class Polynomial(NamedTuple):
    """A cost as a polynomial in the sizes of groups.

    What removing a unit saves is then arithmetic on a few terms, in NumPy and under
    jit alike.

    Attributes:
      sizes: `[groups]`, of the whole model: the variables.
      factors: `[terms, degree]`, the variables of each term; `len(sizes)` stands for 1.
      coefficients: `[terms]`.
    """

    sizes: np.ndarray
    factors: np.ndarray
    coefficients: np.ndarray

    def value(self, removed: Any, xp: Any = np) -> Any:
        """The cost when so many units of each group are gone."""
        left = self.sizes.astype(removed.dtype) - removed
        padded = xp.concatenate([left, xp.ones((1,), removed.dtype)])
        products = padded[self.factors].prod(axis=1)
        return (products * self.coefficients.astype(removed.dtype)).sum()

    @property
    def whole(self) -> float:
        """The cost of the whole model."""
        return float(self.value(np.zeros(len(self.sizes))))

    def of(self, index: int) -> "Polynomial":
        """The terms that hold one variable."""
        mine = (self.factors == index).any(axis=1)
        return Polynomial(self.sizes, self.factors[mine], self.coefficients[mine])


def parameters_of(groups: Groups) -> Cost:
    """The number of parameters; model state is none."""
    shapes = groups.shapes.items()
    return [(1, axes) for path, axes in shapes if not path.startswith(STATE)]


def macs_of(groups: Groups) -> Cost:
    """Multiply-accumulates, for the inputs that the groups were found with."""
    return [(1, axes) for axes in groups.contractions]


def bops_of(groups: Groups, sites: Sites, bits: Mapping[str, tuple[int, int]]) -> Cost:
    """Bit operations: the sum of MACs * weight bits * activation bits.

    Source: Baskin et al. 2018, https://arxiv.org/abs/1804.10969, as in the report. The
    MACs of a site with a weight are proportional to the weights that are kept.

    Args:
      groups: Of the model.
      sites: Of the model, with the same inputs.
      bits: By site name, the bits of weight and activations; others are float32.

    Raises:
      ValueError: If a name is none of the sites with weights.
    """
    by_name = {site.name: site for site in sites.weighted}
    unknown = sorted(set(bits) - set(by_name))
    if unknown:
        raise ValueError(
            f'prune.bops_of: bits["{unknown[0]}"] is none of the sites with weights: '
            f"{', '.join(list(by_name)[:5])}. Name one of them."
        )
    cost: list[tuple[int | Fraction, Sequence[Node]]] = [
        (FLOAT_BITS**2, axes) for axes in groups.contractions
    ]
    for name, (weight_bits, activation_bits) in bits.items():
        site = by_name[name]
        saved = FLOAT_BITS**2 - weight_bits * activation_bits
        each = Fraction(site.macs, max(site.weight_size, 1))
        cost.append((-saved * each, groups.shapes[str(site.path)]))
    return cost


def polynomial_in(cost: Cost, groups: Groups, variables: Sequence[Group]) -> Polynomial:
    """A cost as a polynomial in the sizes of some groups; the others stay whole."""
    index = {find(groups.atoms[group.name]): i for i, group in enumerate(variables)}
    terms: _Terms = {}
    for weight, axes in cost:
        product: _Terms = {(): weight}
        for axis in axes:
            product = _times(product, _size(axis, index))
        _add(terms, product)
    degree = max(map(len, terms), default=0) or 1
    one = len(variables)
    factors = [[*term, *[one] * (degree - len(term))] for term in terms]
    return Polynomial(
        np.array([group.size for group in variables], np.float64),
        np.array(factors, int).reshape(-1, degree),
        np.array([float(weight) for weight in terms.values()]),
    )


# By the variables of a term, sorted, its coefficient; exact.
_Terms = dict[tuple[int, ...], int | Fraction]


def _size(node: Node, index: Mapping[Node, int]) -> _Terms:
    """The size of an axis: a variable, a product or a sum."""
    node = find(node)
    if node in index:
        return {(index[node],): 1}
    if node.kind == PRODUCT:
        product: _Terms = {(): 1}
        for part in node.parts:
            product = _times(product, _size(part, index))
        return product
    if node.kind == SUM:
        total: _Terms = {}
        for part in node.parts:
            _add(total, _size(part, index))
        return total
    return {(): node.size}


def _times(a: _Terms, b: _Terms) -> _Terms:
    product: _Terms = {}
    for some, weight in a.items():
        _add(product, {tuple(sorted((*some, *t))): weight * w for t, w in b.items()})
    return product


def _add(total: _Terms, terms: _Terms) -> None:
    for term, weight in terms.items():
        total[term] = total.get(term, 0) + weight
