"""For tests that compile many small programs and run each a few times."""

from collections.abc import Generator

import jax
import pytest


@pytest.fixture(autouse=True)
def quick_compilation() -> Generator[None]:
    """XLA without its expensive optimizations: half the time."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
