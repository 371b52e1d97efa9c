"""Hands the shards of a sweep to Slurm, as an array of jobs."""

import pathlib
from collections.abc import Mapping
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
    num_cells = check_sweep(config, directory, Shard(0, jobs))
    if jobs > num_cells:
        raise CellError(
            f"--jobs={jobs}: the sweep has {num_cells} cells. Use at most that many."
        )
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


def _shard_job(
    dumped: dict[str, Any], directory: str, index: int, count: int, workers: int | None
) -> int:
    """Runs a shard where it was sent to; returns how many cells failed."""
    config = parse_config(dumped)
    shard = Shard(index, count)
    return sweep(config, pathlib.Path(directory), workers=workers, shard=shard)
