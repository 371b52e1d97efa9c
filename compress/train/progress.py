"""The progress bar: loss, sparsity and time left; quiet when not in a terminal."""

import contextlib
import sys
from collections.abc import Generator

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)


class ProgressBar:
    """Shows how far a run is."""

    def __init__(self, progress: Progress, task_id: TaskID) -> None:
        self._progress = progress
        self._task_id = task_id

    def show(self, step: int, stage: str, metrics: dict[str, float]) -> None:
        """Moves the bar to `step`."""
        parts = [f"{name} {value:.3g}" for name, value in metrics.items()]
        self._progress.update(
            self._task_id,
            completed=step,
            description=stage,
            detail="  ".join(parts),
        )


@contextlib.contextmanager
def progress_bar(name: str, total: int, *, quiet: bool) -> Generator[ProgressBar]:
    """A bar over `total` steps, on the terminal's error stream."""
    from rich.console import Console

    progress = Progress(
        TextColumn(f"[bold]{name}[/bold] {{task.description}}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet or not sys.stderr.isatty(),
    )
    with progress:
        yield ProgressBar(progress, progress.add_task("", total=total, detail=""))
