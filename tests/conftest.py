"""Every test runs under JAX's strictest settings, with shapes and dtypes checked."""

import atexit
import gc
import os
import pathlib
import shutil
import tempfile
from collections.abc import Generator

# Before anything imports jax: a program is compiled once for all workers of this run,
# and for the processes that tests start.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _programs = tempfile.mkdtemp(prefix="jax-compress-tests-")
    atexit.register(shutil.rmtree, _programs, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import pytest
from hypothesis import HealthCheck, Phase, settings
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import install_import_hook

# Before anything imports compress: shapes in signatures are checked as it runs. An int
# is a float, as PEP 484 and pyright have it.
install_import_hook(
    "compress", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)

# Compilation makes each new shape slow, so there is no deadline, and a failure is shown
# as it was found: to shrink it would take minutes.
for profile, examples in {"jax": 6, "deep": 50}.items():
    settings.register_profile(
        profile,
        deadline=None,
        max_examples=examples,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile("jax")


# Traces are many objects that live on: looking through them as often as Python does by
# default takes 5 % of the time.
gc.set_threshold(20_000, 10, 10)

# Where what XLA makes of a program is the subject.
OPTIMIZED = (
    "export/lower",
    "export/test_artifact.py",
    "export/test_chunks.py",
    "export/test_fuzz.py",
    "export/test_parity.py",
    "quantize",
    "test_goals.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """XLA without its expensive optimizations, in processes a test starts as well.

    Most tests compile much and compute little: this halves their time. What was
    compiled one way is forgotten before the other way is used, because bits differ.
    """
    name = item.path.relative_to(pathlib.Path(__file__).parent).as_posix()
    quick = not name.startswith(OPTIMIZED)
    if jax.config.read("jax_disable_most_optimizations") != quick:
        jax.clear_caches()
        jax.config.update("jax_disable_most_optimizations", quick)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(quick))


@pytest.fixture(scope="module")
def without_shared_programs() -> Generator[None]:
    """JAX as a user has it, where which directory programs are kept in is the subject.

    Whatever a test sets then is forgotten after the module's last one.
    """
    shared = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", shared)
    compilation_cache.reset_cache()


@pytest.fixture
def key() -> jax.Array:
    """A random key."""
    return jax.random.key(0)
