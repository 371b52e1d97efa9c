"""The directory of a run: who may use it, and what it says of itself."""

import contextlib
import os
import pathlib
from collections.abc import Generator, Sequence

from compress import processes
from compress.config import Config, config_hash
from compress.files import write_json
from compress.machine import describe_machine
from compress.task import Task
from compress.train.provenance import data_hash, git_commit, versions


class RunError(RuntimeError):
    """A run that cannot start or go on."""


def run_identity(config: Config, task: Task, seed: int) -> str:
    """What makes a run what it is: config, seed and data."""
    return (
        f"config {config_hash(config)[:16]}, seed {seed}, data {data_hash(task)[:16]}"
    )


class InUseError(RunError):
    """A directory that another process works in."""


@contextlib.contextmanager
def claimed(
    directory: pathlib.Path, *, shared: bool = False, wait: bool = False
) -> Generator[None]:
    """Makes a directory, and keeps other processes from writing to it meanwhile.

    Of several processes of one run, process 0 holds it for all.

    Args:
      directory: To be made, with those above it.
      shared: Only keeps those out who want it for themselves.
      wait: Waits until it is free.

    Raises:
      InUseError: If another process has it.
      RunError: If it cannot be made.
    """
    with contextlib.ExitStack() as held:
        processes.on_primary(lambda: _claim(directory, held, shared, wait))
        yield


def _claim(
    directory: pathlib.Path, held: contextlib.ExitStack, shared: bool, wait: bool
) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = held.enter_context((directory / ".lock").open("a+"))
    except OSError as error:
        raise RunError(f"{directory}: cannot be written ({error.strerror}).") from error
    _lock(file.fileno(), directory, shared, wait)


def _lock(descriptor: int, directory: pathlib.Path, shared: bool, wait: bool) -> None:
    """The system gives the lock back when the process ends, however it ends."""
    if os.name != "posix":
        return
    import fcntl

    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InUseError(
            f"{directory}: is in use by another process. Wait for it, or choose "
            "another --workdir."
        ) from None


def write_provenance(
    directory: pathlib.Path,
    config: Config,
    task: Task,
    seed: int,
    *,
    program_seeds: Sequence[int] | None,
    begins: bool,
) -> None:
    """Writes down what is needed to run it again: when a run begins.

    Args:
      directory: Of the run.
      config: The run.
      task: Its task.
      seed: Of the run.
      program_seeds: Of all runs that are trained in one program, this one among them;
        None: not known, of a run that an older version made.
      begins: Whether it does; a run that goes on keeps what is written.
    """
    if not begins and (directory / "run.json").exists():
        return
    provenance = {
        "identity": run_identity(config, task, seed),
        "seed": seed,
        "program_seeds": program_seeds,
        "config_hash": config_hash(config),
        "data_hash": data_hash(task),
        "git_commit": git_commit(config.task),
        "versions": versions(),
        "machine": describe_machine(),
    }
    try:
        write_json(directory / "config.json", config.model_dump(mode="json"))
        write_json(directory / "run.json", provenance)
    except OSError as error:
        raise RunError(f"{directory}: cannot be written ({error.strerror}).") from error
