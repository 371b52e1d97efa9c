"""Runs jobs in worker processes, one to a core, so that they do not disturb each other.

Workers are spawned (JAX does not survive a fork) and kept, so that JAX is started and
programs are compiled once per worker, not once per job.
"""

import concurrent.futures
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from compress.compare.cell import CellError

Job = tuple[Any, ...]


def run_jobs(
    function: Callable[..., Any],
    jobs: Sequence[Job],
    *,
    workers: int,
    cache: pathlib.Path,
) -> Iterator[tuple[Job, Any]]:
    """Yields `(job, function(*job))` as jobs finish.

    Args:
      function: At the top of a module, so that workers can import it.
      jobs: Its arguments.
      workers: How many run at a time.
      cache: Where compiled programs are shared between workers.

    Raises:
      CellError: If a worker dies.
    """
    context = multiprocessing.get_context("spawn")
    slots = context.SimpleQueue()
    for slot in range(workers):
        slots.put(slot)
    with concurrent.futures.ProcessPoolExecutor(
        workers, context, initializer=_start_worker, initargs=(slots, str(cache))
    ) as pool:
        pending = {pool.submit(function, *job): job for job in jobs}
        try:
            for future in concurrent.futures.as_completed(pending):
                yield pending[future], future.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise CellError(
                "a worker process died, perhaps for lack of memory. What is finished "
                "is kept: the same command goes on. Try fewer --workers."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker(slots: Any, cache: str) -> None:
    """Gives a worker a core of its own, before JAX starts its threads."""
    slot = slots.get()
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[slot % len(cores)]})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from absl import logging

    logging.set_verbosity(logging.WARNING)
    share_compiled_programs(cache)


def _end_with_parent() -> None:
    """A worker whose parent was killed must not go on writing to its cell."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def share_compiled_programs(cache: str | pathlib.Path) -> None:
    """Keeps compiled programs in a directory, for this and later processes."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
