"""Worker processes: what they do, and what a dead one costs."""

import os
import pathlib
import signal

from compress.compare.pool import WorkerDied, run_jobs


def _work(kind: str, folder: str) -> str:
    """Ends as its name says; `once` and `saved` do the first time only."""
    marker = pathlib.Path(folder) / kind
    if kind == "always" or (kind in ("once", "saved") and not marker.exists()):
        marker.touch()
        if kind == "saved":  # as `train` does, at a SIGTERM to this worker alone
            raise SystemExit(128 + signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{kind} done"


def test_a_killed_worker_costs_a_retry_and_then_its_job_alone(
    tmp_path: pathlib.Path,
) -> None:
    jobs = [(kind, str(tmp_path)) for kind in ("once", "always", "saved", "other")]
    results = {
        job[0]: result
        for job, result in run_jobs(_work, jobs, workers=2, cache=tmp_path)
    }
    died = results.pop("always")
    assert isinstance(died, WorkerDied)
    assert "its worker process died 2 times" in str(died)
    assert "Try fewer --workers" in str(died)
    assert results == {kind: f"{kind} done" for kind in ("once", "saved", "other")}
