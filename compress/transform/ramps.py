"""Quantities that grow with the step, such as sparsity."""

from typing import NamedTuple

import jax.numpy as jnp

from compress.annotations import Array, Float, Int


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
        length = max(self.end - self.begin, 1)
        past = (jnp.asarray(step) - self.begin).astype(jnp.float32) / length
        left = (1.0 - jnp.clip(past, 0.0, 1.0)) ** self.power
        value = self.final + (self.initial - self.final) * left
        value = jnp.where(jnp.asarray(step) >= self.end, self.final, value)
        return value.astype(jnp.float32)

    def whole(
        self, step: Int[Array, "*steps"] | int, total: int
    ) -> Int[Array, "*steps"]:
        """That fraction of `total` as a whole number; exact at both ends."""
        first, last = round(self.initial * total), round(self.final * total)
        between = jnp.round(self(step) * total).astype(jnp.int32)
        # float32 cannot tell the large totals apart and may round past an end.
        between = jnp.clip(between, min(first, last), max(first, last))
        step = jnp.asarray(step)
        started = jnp.where(step <= self.begin, first, between)
        return jnp.where(step >= self.end, last, started)


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
