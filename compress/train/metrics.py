"""Metrics as they come: a line of JSON each, and TensorBoard where it is installed."""

import json
import os
import pathlib
from types import TracebackType
from typing import Any

from compress import processes
from compress.data import Source
from compress.task import Task

# How the checkpoint that was saved at a step did.
EVALUATED = "eval_score"


class MetricsLog:
    """`metrics.jsonl` of a run, always; event files beside it with the extra `tb`.

    Process 0 writes them; the others write nothing.
    """

    def __init__(self, directory: pathlib.Path, *, resumed_at: int) -> None:
        """Opens the log.

        Args:
          directory: Of the run.
          resumed_at: Lines after this step are dropped: they will come again.
        """
        self._file = self._writer = None
        if processes.is_primary():
            path = directory / "metrics.jsonl"
            _drop_after(path, resumed_at)
            self._file = path.open("a")
            self._writer = _tensorboard(directory)

    def write(self, step: int, **values: Any) -> None:
        """Logs scalars (and texts, to the file only) at a step."""
        if self._file is not None:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        for name, value in values.items():
            if self._writer is not None and isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, step)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._writer is not None:
            self._writer.close()


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a line cut off by a kill is left out."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def _drop_after(path: pathlib.Path, step: int) -> None:
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    partial = path.with_name(f".metrics.partial-{os.getpid()}")
    partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
    partial.replace(path)


def _tensorboard(directory: pathlib.Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(directory / "tensorboard"))


def input_records(task: Task, directory: pathlib.Path) -> list[str]:
    """What a report must say of examples that a run read from files."""
    said = []
    for part in ("train", "validation", "test"):
        data = getattr(task, part)
        for line in data.skipped if isinstance(data, Source) else ():
            said.append(f"{part}: left out {line}")
    lines = read_metrics(directory / "metrics.jsonl")
    waits = [line["input_wait"] for line in lines if "input_wait" in line]
    if waits:
        share = sum(waits) / len(waits)
        said.append(f"the device waited for input {share:.0%} of the training time")
    return said
