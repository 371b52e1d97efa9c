"""Numbers of a config where a step reads them: of one run, or of one of several."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from compress.annotations import Array, Float, Int
from compress.config import Config


class Whose(NamedTuple):
    """Whose numbers a step is built with.

    Attributes:
      configs: One, or several that differ in their numbers alone: `program_hash` is
        the same.
      index: Which of several it is; traced, so that runs of all of them are one
        program under `jax.vmap`.
    """

    configs: Sequence[Config]
    index: Int[Array, ""] | None = None

    def number(self, read: Callable[[Config], float]) -> float | Float[Array, ""]:
        """What `read` finds in the config: a Python number where all have the same."""
        values = [read(config) for config in self.configs]
        if self.index is None or len(set(values)) == 1:
            return values[0]
        return jnp.asarray(values, jnp.float32)[self.index]

    def pick(
        self,
        build: Callable[[Config], Any],
        choose: Callable[[Sequence[Any], Int[Array, ""]], Any],
    ) -> Any:
        """What is built of the config, or of several the one that `choose` makes."""
        built = [build(config) for config in self.configs]
        return built[0] if self.index is None else choose(built, self.index)
