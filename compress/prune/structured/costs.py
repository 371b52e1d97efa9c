"""What a model costs as a function of the sizes of its groups."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from compress.sites import Site, Sites
from compress.sites.groups import Group, Groups

# cost(sizes by group name; a missing group is whole) -> parameters, MACs, BOPs; exact
Cost = Callable[[Mapping[str, int]], int | Fraction]
FLOAT_BITS = 32


class Polynomial(NamedTuple):
    """A cost as a polynomial in how many units each group has lost.

    Counts of parameters and MACs are sums of products of sizes, so that a few dozen
    probes determine them exactly; what removing a unit saves is then arithmetic on a
    few terms, in NumPy and under jit alike.

    Attributes:
      names: Of the groups, the variables.
      factors: `[terms, degree]`, the variables of each term; `len(names)` stands for 1.
      coefficients: `[terms]`.
    """

    names: tuple[str, ...]
    factors: np.ndarray
    coefficients: np.ndarray

    def value(self, removed: Any, xp: Any = np) -> Any:
        """The cost when `removed[i]` units of group `names[i]` are gone."""
        padded = xp.concatenate([removed, xp.ones((1,), removed.dtype)])
        products = padded[self.factors].prod(axis=1)
        return (products * self.coefficients.astype(removed.dtype)).sum()

    @property
    def whole(self) -> float:
        """The cost of the whole model."""
        return float(self.value(np.zeros(len(self.names))))

    def of(self, index: int) -> "Polynomial":
        """The terms that hold one variable."""
        mine = (self.factors == index).any(axis=1)
        return Polynomial(self.names, self.factors[mine], self.coefficients[mine])


def cost_polynomial(cost: Cost, groups: Sequence[Group]) -> Polynomial:
    """Determines a cost from its values near the whole model.

    Groups can only multiply where they meet: in a parameter, or in a product of what
    two parameters wrote. Sets of groups are grown as long as their pairs interact.

    Args:
      cost: Of the model.
      groups: The variables; each has at least two units.

    Raises:
      NotImplementedError: If the cost is no such polynomial.
    """
    probe = _Probe(cost, groups)
    terms = {(): float(probe.at({}))}
    for index in range(len(groups)):
        terms.update(probe.terms((index,)))
    known = [(i,) for i in range(len(groups))]
    candidates: Iterable[tuple[int, ...]] = _meeting(groups)
    pairs: set[tuple[int, ...]] = set()
    while candidates:
        found = {c: probe.terms(c) for c in candidates}
        known = [subset for subset, terms_of in found.items() if terms_of]
        pairs |= {subset for subset in known if len(subset) == 2}
        for subset in known:
            terms.update(found[subset])
        candidates = _grown(known, pairs)
    polynomial = _polynomial(terms, groups)
    _check_polynomial(polynomial, probe)
    return polynomial


class _Probe:
    """Evaluates a cost with some units gone; remembers what it has seen."""

    def __init__(self, cost: Cost, groups: Sequence[Group]) -> None:
        self.cost, self.groups = cost, groups
        self.seen: dict[tuple[tuple[int, int], ...], int | Fraction] = {}
        self.squared = [self._is_squared(i) for i in range(len(groups))]

    def at(self, removed: Mapping[int, int]) -> int | Fraction:
        """The cost with that many units of some groups gone."""
        key = tuple(sorted((i, r) for i, r in removed.items() if r))
        if key not in self.seen:
            sizes = {self.groups[i].name: self.groups[i].size - r for i, r in key}
            self.seen[key] = self.cost(sizes)
        return self.seen[key]

    def _is_squared(self, index: int) -> bool:
        """Whether the group multiplies itself, as in a square matrix."""
        if self.groups[index].size < 3:  # one unit at most can go: a line is exact
            return False
        return self.at({index: 2}) - 2 * self.at({index: 1}) + self.at({}) != 0

    def terms(self, subset: tuple[int, ...]) -> dict[tuple[int, ...], float]:
        """The terms in which exactly these groups meet: variables to coefficient."""
        degrees = [2 if self.squared[i] else 1 for i in subset]
        grid = np.zeros(degrees)
        for point in np.ndindex(*degrees):
            removed = {i: p + 1 for i, p in zip(subset, point)}
            grid[point] = float(self._together(removed))
        for axis, degree in enumerate(degrees):
            powers = np.array(
                [[(p + 1.0) ** (e + 1) for e in range(degree)] for p in range(degree)]
            )
            solved = np.tensordot(np.linalg.inv(powers), grid, axes=(1, axis))
            grid = np.moveaxis(solved, 0, axis)
        found = {}
        for point in np.ndindex(*degrees):
            variables = [i for i, p in zip(subset, point) for _ in range(p + 1)]
            # Coefficients are whole numbers, or halves under a square; less is the
            # rounding of the solution.
            if abs(grid[point]) > 1e-3:
                found[tuple(variables)] = float(grid[point])
        return found

    def _together(self, removed: Mapping[int, int]) -> int | Fraction:
        """What only the whole set changes: inclusion and exclusion."""
        total: int | Fraction = 0
        for count in range(len(removed) + 1):
            sign = (-1) ** (len(removed) - count)
            for some in itertools.combinations(removed.items(), count):
                total += sign * self.at(dict(some))
        return total


def _meeting(groups: Sequence[Group]) -> list[tuple[int, ...]]:
    """Pairs of groups with a parameter in common."""
    by_path: dict[str, set[int]] = {}
    for index, group in enumerate(groups):
        for member in group.members:
            by_path.setdefault(member.path, set()).add(index)
    pairs = {
        pair
        for met in by_path.values()
        for pair in itertools.combinations(sorted(met), 2)
    }
    return sorted(pairs)


def _grown(
    known: Sequence[tuple[int, ...]], pairs: set[tuple[int, ...]]
) -> list[tuple[int, ...]]:
    """Sets with one more group, all pairs of which interact."""
    neighbours: dict[int, set[int]] = {}
    for first, second in pairs:
        neighbours.setdefault(first, set()).add(second)
    grown = set()
    for subset in known:
        common = set.intersection(*(neighbours.get(i, set()) for i in subset))
        grown |= {(*subset, i) for i in common if i > subset[-1]}
    return sorted(grown)


def _polynomial(
    terms: Mapping[tuple[int, ...], float], groups: Sequence[Group]
) -> Polynomial:
    degree = max(map(len, terms), default=0) or 1
    one = len(groups)
    factors = [[*term, *[one] * (degree - len(term))] for term in terms]
    names = tuple(group.name for group in groups)
    return Polynomial(names, np.array(factors, int), np.array(list(terms.values())))


def _check_polynomial(polynomial: Polynomial, probe: _Probe) -> None:
    rng = np.random.default_rng(0)
    for _ in range(3):
        removed = [int(rng.integers(0, g.size)) for g in probe.groups]
        expected = float(probe.at(dict(enumerate(removed))))
        found = polynomial.value(np.array(removed, float))
        if not math.isclose(found, expected, rel_tol=1e-9, abs_tol=0.5):
            raise NotImplementedError(
                f"prune.structured: with {removed} units gone the model costs "
                f"{expected:,.0f}, but from its parameters {found:,.0f} was expected: "
                "groups multiply that share no parameter. Exclude some of "
                f"{', '.join(polynomial.names[:5])}."
            )


def bops_of(groups: Groups, sites: Sites, bits: Mapping[str, tuple[int, int]]) -> Cost:
    """Bit operations as a function of the sizes: MACs * weight bits * activation bits.

    Source: Baskin et al. 2018, https://arxiv.org/abs/1804.10969, as in the report. The
    MACs of a site with a weight are proportional to the weights that are kept.

    Args:
      groups: Of the model.
      sites: Of the model.
      bits: By site name, the bits of weight and activations; others are float32.

    Raises:
      ValueError: If a name is none of the sites with weights.
    """
    by_name = {site.name: site for site in sites.weighted}
    unknown = sorted(set(bits) - set(by_name))
    if unknown:
        raise ValueError(
            f'prune.bops_of: bits["{unknown[0]}"] is none of the sites with weights: '
            f"{', '.join(list(by_name)[:5])}, ... Name one of them."
        )
    quantized = [(by_name[name], *pair) for name, pair in bits.items()]

    def cost(sizes: Mapping[str, int]) -> int | Fraction:
        total: int | Fraction = groups.macs(sizes) * FLOAT_BITS**2
        for site, weight_bits, activation_bits in quantized:
            saved = FLOAT_BITS**2 - weight_bits * activation_bits
            total -= saved * _site_macs(site, groups, sizes)
        return total

    return cost


def _site_macs(site: Site, groups: Groups, sizes: Mapping[str, int]) -> Fraction:
    """MACs of a site when its weight has lost units; which ones makes no difference."""
    kept = Fraction(site.macs)
    for axis, whole in enumerate(site.weight_shape):
        positions = np.ones(whole, bool)
        for group in groups:
            gone = group.size - sizes.get(group.name, group.size)
            for member in group.members if gone else ():
                if (member.path, member.axis) == (site.path, axis):
                    positions[member.indices[:gone].ravel()] = False
        kept = kept * int(positions.sum()) / max(whole, 1)
    return kept
