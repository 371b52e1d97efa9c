"""Runs jobs in worker processes, one to a core, so that they do not disturb each other.

Workers are spawned (JAX does not survive a fork) and kept, so that JAX is started and
programs are compiled once per worker, not once per job. Each is a pool of its own: when
one dies, it is known with which job, and the others do not notice.
"""

import collections
import concurrent.futures
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from compress.compare.cell import CellError

Job = tuple[Any, ...]
_ATTEMPTS = 2


class WorkerDied(CellError):
    """A job whose worker process ended before it did."""


def run_jobs(
    function: Callable[..., Any],
    jobs: Sequence[Job],
    *,
    workers: int,
    cache: pathlib.Path,
) -> Iterator[tuple[Job, Any]]:
    """Yields `(job, function(*job))` as jobs finish.

    A job whose worker dies is tried once more, after the others; if that worker dies
    too, a `WorkerDied` stands for its result. The other jobs go on.

    Args:
      function: At the top of a module, so that workers can import it.
      jobs: Its arguments.
      workers: How many run at a time.
      cache: Where compiled programs are shared between workers.
    """
    waiting = collections.deque((job, 1) for job in jobs)
    idle = [_Worker(slot, cache) for slot in range(min(workers, len(jobs)))]
    running: dict[concurrent.futures.Future[Any], tuple[_Worker, Job, int]] = {}
    try:
        while waiting or running:
            while waiting and idle:
                worker, (job, attempt) = idle.pop(), waiting.popleft()
                running[worker.start(function, job)] = worker, job, attempt
            future = _first_done(running)
            worker, job, attempt = running.pop(future)
            idle.append(worker)
            try:
                result = future.result()
            except BrokenProcessPool as error:
                worker.replace()
                if attempt < _ATTEMPTS:
                    waiting.append((job, attempt + 1))
                    continue
                result = _died(error)
            yield job, result
    finally:
        # Those still running end by themselves, or with this process.
        for worker in [*idle, *(worker for worker, *_ in running.values())]:
            worker.stop(wait=not running)


def _first_done(running: Any) -> concurrent.futures.Future[Any]:
    first = concurrent.futures.FIRST_COMPLETED
    return next(iter(concurrent.futures.wait(running, return_when=first).done))


def _died(cause: Exception) -> WorkerDied:
    error = WorkerDied(
        f"its worker process died {_ATTEMPTS} times, perhaps for lack of memory. What "
        "is finished is kept: the same command goes on. Try fewer --workers."
    )
    error.__cause__ = cause
    return error


class _Worker:
    """One process, on a core of its own; another one once it has died."""

    def __init__(self, slot: int, cache: pathlib.Path) -> None:
        self.arguments = (slot, str(cache))
        self.replace()

    def replace(self) -> None:
        """Starts over, with a process that is spawned at its first job."""
        context = multiprocessing.get_context("spawn")
        self.pool = concurrent.futures.ProcessPoolExecutor(
            1, context, initializer=_start_worker, initargs=self.arguments
        )

    def start(
        self, function: Callable[..., Any], job: Job
    ) -> concurrent.futures.Future[Any]:
        try:
            return self.pool.submit(function, *job)
        except BrokenProcessPool:  # It died when it had nothing to do.
            self.replace()
            return self.pool.submit(function, *job)

    def stop(self, wait: bool) -> None:
        self.pool.shutdown(wait=wait, cancel_futures=True)


def _start_worker(slot: int, cache: str) -> None:
    """Gives a worker a core of its own, before JAX starts its threads."""
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
