"""A parameter whose connections are pruned, and what its axes mean."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax

from compress.annotations import Shaped
from compress.sites import Site


@dataclasses.dataclass(frozen=True)
class Weight:
    """What is known of a pruned parameter without its values.

    Attributes:
      path: Of the parameter.
      names: Of the sites that read it.
      shape: Of the whole parameter.
      layers: Axes that stack scanned layers or experts: each of them is a row.
      output: Axes that become axes of the site's result.
      window: Contracting axes that a convolution's window runs along.
      inputs: The other contracting axes: features, or the input channels.
      mixed: Whether sites read it along different axes, so that the above is true of
        the first only (a tied embedding).
    """

    path: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    layers: tuple[int, ...]
    output: tuple[int, ...]
    window: tuple[int, ...]
    inputs: tuple[int, ...]
    mixed: bool

    @property
    def rows(self) -> int:
        """How many layers it stacks."""
        return self.size_of(self.layers)

    @property
    def size(self) -> int:
        """Elements of one layer."""
        return math.prod(self.shape) // self.rows

    def size_of(self, axes: Sequence[int]) -> int:
        """The product of the sizes of some axes."""
        return math.prod(self.shape[axis] for axis in axes)

    def in_rows(
        self, x: Shaped[jax.Array, "..."]
    ) -> Shaped[jax.Array, "rows elements"]:
        """One row for each layer."""
        return x.transpose(self._layers_first()).reshape(self.rows, -1)

    def from_rows(
        self, x: Shaped[jax.Array, "rows elements"]
    ) -> Shaped[jax.Array, "..."]:
        """The inverse of `in_rows`."""
        return self._back(x, self._layers_first())

    def as_matrix(
        self, x: Shaped[jax.Array, "..."]
    ) -> Shaped[jax.Array, "rows output contracting"]:
        """The matrix of each layer; its columns are the window, then the inputs."""
        x = x.transpose(self._matrix_order())
        return x.reshape(self.rows, self.size_of(self.output), -1)

    def from_matrix(
        self, x: Shaped[jax.Array, "rows output contracting"]
    ) -> Shaped[jax.Array, "..."]:
        """The inverse of `as_matrix`."""
        return self._back(x, self._matrix_order())

    def _layers_first(self) -> tuple[int, ...]:
        others = [i for i in range(len(self.shape)) if i not in self.layers]
        return (*self.layers, *others)

    def _matrix_order(self) -> tuple[int, ...]:
        return (*self.layers, *self.output, *self.window, *self.inputs)

    def _back(self, x: Any, order: Sequence[int]) -> Any:
        inverse = [order.index(axis) for axis in range(len(order))]
        return x.reshape([self.shape[axis] for axis in order]).transpose(inverse)


def weight_of(sites: Sequence[Site]) -> Weight:
    """The parameter that these sites read."""
    first = sites[0]
    roles = {(site.contracting, site.output, site.window) for site in sites}
    return Weight(
        path=str(first.path),
        names=tuple(site.name for site in sites),
        shape=first.weight_shape,
        layers=first.stacked,
        output=first.output,
        window=first.window,
        inputs=tuple(a for a in first.contracting if a not in first.window),
        mixed=len(roles) > 1,
    )
