"""What is known of a value in the analysis of axes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from compress.interpret.axes.nodes import Node, atoms

# Where a value vanishes, along an axis: where units are removed and every parameter
# that goes with them is zero.
Vanishing = tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class Value:
    """A value of the program.

    Attributes:
      axes: What each axis is made of.
      zeros: For each axis, whether the value vanishes at removed units.
      layers: For each scan around it, whether it vanishes in a removed layer.
      literal: The number it is equal to everywhere, if there is one.
      constant: Whether neither parameters nor inputs decide it: it is computed at the
        original size, and cut where it meets something else.
      path: Of the parameter it is, as it is.
      weight: Whether the inputs have no say in it.
      carry: Which carried value of the scan around it this is, but for what vanishes in
        a removed layer.
    """

    axes: tuple[Node, ...]
    zeros: Vanishing
    layers: Vanishing = ()
    literal: float | None = None
    constant: bool = False
    path: str | None = None
    weight: bool = False
    carry: int | None = None

    @property
    def shape(self) -> tuple[Any, ...]:
        """The original shape; in an export, the batch's size is symbolic."""
        return tuple(node.size for node in self.axes)

    @property
    def is_zero(self) -> bool:
        """Whether it is zero everywhere."""
        return self.literal == 0.0

    def moved(self, axes: Sequence[Node], zeros: Sequence[bool]) -> "Value":
        """Its elements elsewhere."""
        return Value(tuple(axes), tuple(zeros), self.layers, self.literal)


def cut(value: Value) -> Value:
    """A constant about to meet something else: its axes become whatever they meet."""
    if not value.constant:
        return value
    zeros = (value.is_zero,) * len(value.axes)
    layers = (value.is_zero,) * len(value.layers)
    return Value(atoms(value.shape), zeros, layers, value.literal, weight=True)


def opaque(shape: Sequence[Any], depth: int, reason: str) -> Value:
    """A value of which nothing is known but its shape."""
    return Value(atoms(shape, reason), (False,) * len(shape), (False,) * depth)
