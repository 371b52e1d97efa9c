"""Runs jobs in worker processes, one to a core, so that they do not disturb each other.

Workers are spawned (JAX does not survive a fork) and kept, so that JAX is started and
programs are compiled once per worker, not once per job. Each is a pool of its own: when
one dies, it is known with which job, and the others do not notice.

A SIGTERM to the parent, to a worker, or to all of them lets what trains save first.
"""

import collections
import concurrent.futures
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from absl import logging

from compress.compare.cell import CellError
from compress.train.signals import Terminated

Job = tuple[Any, ...]
_Running = dict[concurrent.futures.Future[Any], tuple["_Worker", Job, int]]
_ATTEMPTS = 2
_LOOK_SECONDS = 0.5  # between two looks whether there was a SIGTERM
_GRACE_SECONDS = 60  # for a worker that is told to end, to finish its chunk and save


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

    After a SIGTERM nothing new is started, workers save what they train, and what was
    finished meanwhile is yielded. A second one ends this process at once.

    Args:
      function: At the top of a module, so that workers can import it.
      jobs: Its arguments.
      workers: How many run at a time.
      cache: Where compiled programs are shared between workers.

    Raises:
      SystemExit: After a SIGTERM.
    """
    waiting = collections.deque((job, 1) for job in jobs)
    idle = [_Worker(slot, cache) for slot in range(min(workers, len(jobs)))]
    running: _Running = {}
    try:
        with Terminated() as terminated:
            while (waiting or running) and not terminated.seen:
                while waiting and idle:
                    worker, (job, attempt) = idle.pop(), waiting.popleft()
                    running[worker.start(function, job)] = worker, job, attempt
                for future in _done(running):
                    worker, job, attempt = running.pop(future)
                    idle.append(worker)
                    result = _result(future)
                    if isinstance(result, WorkerDied):
                        worker.replace()
                        if attempt < _ATTEMPTS:
                            waiting.append((job, attempt + 1))
                            continue
                    yield job, result
        if terminated.seen:
            yield from _end(running, idle)
            logging.warning(
                "SIGTERM: what was begun is saved; the same command goes on."
            )
            raise SystemExit(128 + signal.SIGTERM)
    finally:
        # Those still running are told to end as their pipes are closed.
        for worker in [*idle, *(worker for worker, *_ in running.values())]:
            worker.stop(wait=not running)


def _done(running: _Running) -> set[concurrent.futures.Future[Any]]:
    """Those that are, waiting a little for the first."""
    first = concurrent.futures.FIRST_COMPLETED
    return concurrent.futures.wait(running, _LOOK_SECONDS, return_when=first).done


def _result(future: concurrent.futures.Future[Any]) -> Any:
    try:
        return future.result()
    except (BrokenProcessPool, SystemExit) as error:  # killed, or saved at a SIGTERM
        return _died(error)


def _end(running: _Running, idle: list["_Worker"]) -> Iterator[tuple[Job, Any]]:
    """Lets workers save and end; yields what they finish all the same."""
    for worker, *_ in running.values():
        worker.tell_to_end()
    for future in concurrent.futures.as_completed(list(running)):
        worker, job, _ = running.pop(future)
        idle.append(worker)
        if future.exception() is None:
            yield job, future.result()


def _died(cause: BaseException) -> WorkerDied:
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
        self._open()

    def _open(self) -> None:
        context = multiprocessing.get_context("spawn")
        # Nothing is sent: it is closed when the worker is to end, or with the parent.
        told, self._tells = context.Pipe(duplex=False)
        self.pool = concurrent.futures.ProcessPoolExecutor(
            1, context, initializer=_start_worker, initargs=(*self.arguments, told)
        )

    def replace(self) -> None:
        """Starts over, with a process that is spawned at its first job."""
        self.stop(wait=False)
        self._open()

    def tell_to_end(self) -> None:
        self._tells.close()

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


def _start_worker(slot: int, cache: str, told: Any) -> None:
    """Gives a worker a core of its own, before JAX starts its threads."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[slot % len(cores)]})
    threading.Thread(target=_end_when_told, args=(told,), daemon=True).start()
    logging.set_verbosity(logging.WARNING)
    share_compiled_programs(cache)


def _end_when_told(told: Any) -> None:
    """Ends this worker, which must not write to its cell when its parent is gone.

    A SIGTERM is only noted where a run can save; anywhere else it is the end.
    """
    multiprocessing.connection.wait([told])
    for _ in range(_GRACE_SECONDS):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    os._exit(1)


def share_compiled_programs(cache: str | pathlib.Path) -> None:
    """Keeps compiled programs in a directory, for this and later processes."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
