"""The exact threshold of 100 million scores, against a sort and one read of them.

Goal: the masks in at most 8x the time of a pass that reads the scores, and at least 5x
faster than `jnp.sort`, which finds the threshold but no mask.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from compress.prune import keep_largest
from compress.report import measure_latency
from experiments.bench.results import save

_QUICK = flags.DEFINE_bool("quick", False, "A million scores, two rounds, not saved.")
Call = Callable[[], Any]

_READ = "one read: jnp.sum by rows"
_PRUNED = 0.8
_ROWS = 100  # a sum over rows is computed by all threads, a whole one by one thread


def distributions(size: int) -> dict[str, np.ndarray]:
    """Scores like those of weights, with few distinct values, and all equal."""
    normal = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
    return {
        "normal": np.abs(normal),
        "16 levels": np.minimum(np.floor(np.abs(normal) * 4), 15),
        "all equal": np.ones_like(normal),
    }


def fast_calls(size: int, scores: dict[str, jax.Array]) -> dict[str, Call]:
    """Case to a call that reads the scores a few times."""
    normal, num_pruned = scores["normal"], jnp.int32(_PRUNED * size)
    read = jax.jit(lambda x: jnp.sum(x.reshape(_ROWS, -1), axis=1).sum())
    write = jax.jit(lambda x, least: x > least)
    largest = jax.jit(jnp.max)
    found = {
        _READ: lambda: read(normal),
        "one read: jnp.max": lambda: largest(normal),
        "the mask of a known threshold": lambda: write(normal, jnp.float32(1.0)),
    }
    for name, x in scores.items():
        found[f"keep_largest, {name}"] = functools.partial(keep_largest, x, num_pruned)
    found["a mask updated in place, normal"] = updating(normal, num_pruned)
    return found


def updating(scores: jax.Array, num_pruned: jax.Array) -> Call:
    """As in training: the new mask takes the memory of the old one."""
    update = jax.jit(lambda x, old: old & keep_largest(x, num_pruned), donate_argnums=1)
    mask = jnp.ones(scores.shape, bool)

    def call() -> jax.Array:
        nonlocal mask
        mask = update(scores, mask)
        return mask

    return call


def slow_entries(normal: jax.Array, result: Any) -> dict[str, Any]:
    """What moves the scores: timed once, each right after one of ours.

    A call takes most of a minute; its ratio to a read is that to ours, times ours.
    """
    num_pruned = jnp.int32(_PRUNED * normal.size)
    ours = result["entries"]["keep_largest, normal"]
    top_k = functools.partial(jax.lax.top_k, k=normal.size - int(num_pruned))
    entries = {}
    for name, function in {"jnp.sort": jnp.sort, "lax.top_k (20 %)": top_k}.items():
        compiled = jax.jit(function).lower(normal).compile()
        beside = seconds(lambda: keep_largest(normal, num_pruned))
        taken = seconds(functools.partial(compiled, normal))
        ratio = taken / beside * ours["paired_ratio"]
        entries[f"{name}, normal, once"] = {
            "median_us": 1e6 * taken,
            "iqr_us": 0.0,
            "paired_ratio": ratio,
            "times_ours": taken / beside,
        }
    return entries


def seconds(call: Call) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def main(_: Any) -> None:
    """Measures and saves."""
    size = 1_000_000 if _QUICK.value else 100_000_000
    scores = {n: jax.device_put(x) for n, x in distributions(size).items()}
    rounds = 2 if _QUICK.value else 9
    result = measure_latency(
        fast_calls(size, scores), reference=_READ, repetitions=rounds, warmup=1
    )
    result["entries"] |= slow_entries(scores["normal"], result)
    title = f"Masks of {size:,} float32 scores with exactly {_PRUNED:.0%} zeros"
    for name, entry in result["entries"].items():
        print(f"{name}: {entry['median_us'] / 1e3:.1f} ms, {entry['paired_ratio']:.2f}")
    if not _QUICK.value:
        save("threshold", title, result)


if __name__ == "__main__":
    app.run(main)
