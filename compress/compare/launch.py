"""Hands the shards of a sweep to Slurm, as an array of jobs, or to a Ray cluster."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from compress.compare.cell import CellError
from compress.compare.sweep import Shard, check_sweep, sweep
from compress.config import Config, parse_config
from compress.extras import require

LOGS = ".jobs"


def launch(
    config: Config,
    directory: pathlib.Path,
    *,
    jobs: int,
    options: Mapping[str, Any],
    workers: int | None = None,
    cluster: str = "slurm",
) -> list[Any]:
    """Submits a sweep as jobs that each run a shard; does not wait for them.

    Args:
      config: With `sweep`, a grid or a list.
      directory: Of the sweep, on a disk that the jobs share.
      jobs: How many; at most one per cell.
      options: What each job asks for, by submitit's names: `timeout_min`, `mem_gb`,
        `gpus_per_node`, `slurm_partition`.
      workers: Processes at a time in each job; by default one per core.
      cluster: Of submitit: `slurm`, or `local` for processes on this machine.

    Returns:
      submitit's jobs.

    Raises:
      CellError: If the sweep cannot be run in so many shards, or an option is unknown.
      ImportError: If the `slurm` extra is not installed.
    """
    submitit = require("submitit", user="--launcher=slurm", extra="slurm")
    _check_jobs(config, directory, jobs)
    try:
        executor = submitit.AutoExecutor(str(directory / LOGS), cluster=cluster)
        executor.update_parameters(name=str(config.name), **options)
    except (RuntimeError, NameError, AssertionError, TypeError) as error:
        raise CellError(f"--launcher=slurm: {error}") from error
    dumped = config.model_dump(mode="json")
    with executor.batch():
        return [
            executor.submit(_shard_job, dumped, str(directory), index, jobs, workers)
            for index in range(jobs)
        ]


def run_on_ray(
    config: Config,
    directory: pathlib.Path,
    *,
    jobs: int,
    options: Mapping[str, Any],
    workers: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> int:
    """Runs a sweep as tasks of a Ray cluster that each run a shard, and waits for them.

    The cluster is the one that RAY_ADDRESS names, else one started on this machine. A
    shard that dies does not stop the others.

    Args:
      config: With `sweep`, a grid or a list.
      directory: Of the sweep, on a disk that the cluster shares.
      jobs: How many; at most one per cell.
      options: What each task asks for, by Ray's names: `num_cpus`, `num_gpus`.
      workers: Processes at a time in each task; by default one per core.
      say: Shows a line of progress.

    Returns:
      How many cells failed.

    Raises:
      CellError: If the sweep cannot be run in so many shards, an option is unknown, no
        cluster can be reached, or a shard died.
      ImportError: If the `ray` extra is not installed.
    """
    ray = require("ray", user="--launcher=ray", extra="ray")
    _check_jobs(config, directory, jobs)
    try:
        task = ray.remote(_shard_job).options(**options)
    except (ValueError, TypeError) as error:
        raise CellError(f"--launcher=ray: {error}") from error
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init()
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise CellError(f"--launcher=ray: no cluster: {error}") from error
    try:
        path, dumped = str(directory.absolute()), config.model_dump(mode="json")
        shards = {task.remote(dumped, path, i, jobs, workers): i for i in range(jobs)}
        return _gathered(ray, shards, say)
    finally:
        if ours:
            ray.shutdown()


def _gathered(ray: Any, shards: Mapping[Any, int], say: Callable[[str], None]) -> int:
    """Waits for all shards; how many of their cells failed."""
    waiting, failed, died = list(shards), 0, []
    while waiting:
        (done,), waiting = ray.wait(waiting, num_returns=1)
        shard = f"shard {shards[done]}/{len(shards)}"
        try:
            count = ray.get(done)
            failed += count
            say(f"{shard}: done, {count} cells failed")
        except ray.exceptions.RayError as error:
            died.append(f"{shard}: {error}")
            say(f"{shard}: died")
    if died:
        raise CellError(
            f"{len(died)} of {len(shards)} shards died; what is finished is kept, and "
            "the same command goes on. " + "\n".join(died)
        )
    return failed


def _check_jobs(config: Config, directory: pathlib.Path, jobs: int) -> None:
    num_cells = check_sweep(config, directory, Shard(0, jobs))
    if jobs > num_cells:
        raise CellError(
            f"--jobs={jobs}: the sweep has {num_cells} cells. Use at most that many."
        )


def _shard_job(
    dumped: dict[str, Any], directory: str, index: int, count: int, workers: int | None
) -> int:
    """Runs a shard where it was sent to; returns how many cells failed."""
    config = parse_config(dumped)
    shard = Shard(index, count)
    return sweep(config, pathlib.Path(directory), workers=workers, shard=shard)
