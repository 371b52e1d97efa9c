"""What exports of one model with other numbers have in common."""

from collections.abc import Callable
from typing import Any

import jax

from compress.transform import Transform, apply, chain, parameters


class Shared:
    """The functions of a model, compiled once for all exports that are given them.

    Seeds of one run differ in their numbers alone. Every artifact is still compared
    with its own trained forward.

    Attributes:
      forward: As `compress.export` takes it.
      transform: Likewise.
      trained: `(params, state, *inputs) -> outputs`, as trained.
      seen: `(params, state) -> params` as the forward pass sees them.
    """

    def __init__(
        self, forward: Callable[..., Any], transform: Transform | None = None
    ) -> None:
        """Compiles nothing yet."""
        self.forward = forward
        self.transform = chain() if transform is None else transform
        self.trained = jax.jit(apply(forward, self.transform))
        self.seen = jax.jit(lambda p, s: parameters(self.transform, p, s))
