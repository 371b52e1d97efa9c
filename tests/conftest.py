"""Every test runs under JAX's strictest settings."""

import jax
import pytest
from hypothesis import HealthCheck, settings

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compilation makes the first example slow, so there is no deadline.
settings.register_profile(
    "jax",
    deadline=None,
    max_examples=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("jax")


@pytest.fixture
def key() -> jax.Array:
    """A random key."""
    return jax.random.key(0)
