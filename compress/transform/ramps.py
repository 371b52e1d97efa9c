"""Quantities that grow with the step, such as sparsity."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from compress.annotations import Array, Float, Int


class Ends(NamedTuple):
    """Whole numbers that a ramp goes between: one, or an array of them.

    Attributes:
      first: Up to the first step of the ramp.
      last: From its end on.
      final: The last one before it was rounded.
      fall: From the first one to the last one, before they were rounded.
    """

    first: Int[Array | np.ndarray, "*ends"]
    last: Int[Array | np.ndarray, "*ends"]
    final: Float[Array | np.ndarray, "*ends"]
    fall: Float[Array | np.ndarray, "*ends"]


class Ramp(NamedTuple):
    """A number that goes from one value to another between two steps.

    Source: Zhu and Gupta 2017, eq. 1 (with power 3). https://arxiv.org/abs/1710.01878

    Attributes:
      initial: Up to step `begin`.
      final: From step `end` on.
      begin: First step of the ramp.
      end: Step at which `final` is reached; `begin` makes it a jump.
      power: 1 is linear, 3 prunes fast first and slowly in the end.
    """

    initial: float
    final: float
    begin: int
    end: int
    power: float

    def __call__(self, step: Int[Array, "*steps"] | int) -> Float[Array, "*steps"]:
        """The value at `step`."""
        value = self.final + (self.initial - self.final) * self._left(step)
        value = jnp.where(jnp.asarray(step) >= self.end, self.final, value)
        return value.astype(jnp.float32)

    def _left(self, step: Int[Array, "*steps"] | int) -> Float[Array, "*steps"]:
        """The part of the way that is still to go."""
        length = max(self.end - self.begin, 1)
        past = (jnp.asarray(step) - self.begin).astype(jnp.float32) / length
        return (1.0 - jnp.clip(past, 0.0, 1.0)) ** self.power

    def whole(
        self, step: Int[Array, "*steps"] | int, total: int
    ) -> Int[Array, "*steps"]:
        """That fraction of `total` as a whole number; exact at both ends."""
        return self.between(self.ends(total), step, total)

    def ends(self, total: int) -> Ends:
        """Those fractions of `total` as whole numbers."""
        return Ends(
            np.asarray(round(self.initial * total), np.int32),
            np.asarray(round(self.final * total), np.int32),
            np.asarray(self.final, np.float32),
            np.asarray(self.initial - self.final, np.float32),
        )

    def between(
        self, ends: Ends, step: Int[Array, "*steps"] | int, total: int
    ) -> Int[Array, "..."]:
        """What is reached of `total` on the way between two ends; exact at both.

        The ends may be traced; several of them take one step.
        """
        value = ends.final + ends.fall * self._left(step)
        between = jnp.round(value * total).astype(jnp.int32)
        # float32 cannot tell the large totals apart and may round past an end.
        lowest, highest = jnp.minimum(*ends[:2]), jnp.maximum(*ends[:2])
        between = jnp.clip(between, lowest, highest)
        step = jnp.asarray(step)
        started = jnp.where(step <= self.begin, ends.first, between)
        return jnp.where(step >= self.end, ends.last, started)


def ramp(
    initial: float, final: float, steps: tuple[int, int], power: float = 3.0
) -> Ramp:
    """A ramp from `initial` to `final` between two steps.

    Raises:
      ValueError: If the steps run backwards or the power is not positive.
    """
    begin, end = steps
    if begin < 0 or end < begin:
        raise ValueError(f"ramp: steps={steps} must be 0 <= begin <= end.")
    if power <= 0:
        raise ValueError(f"ramp: power={power} must be positive.")
    return Ramp(float(initial), float(final), int(begin), int(end), float(power))
