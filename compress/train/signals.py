"""A SIGTERM that lets a run save before it ends."""

import signal
from types import FrameType
from typing import Any


class Terminated:
    """Notes a SIGTERM, so that the run can save before it ends."""

    def __init__(self) -> None:
        self.seen = False
        self._before: Any = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.seen = True

    def __enter__(self) -> "Terminated":
        try:
            self._before = signal.signal(signal.SIGTERM, self._note)
        except ValueError:  # not the main thread: whoever owns it handles signals
            self._before = None
        return self

    def __exit__(self, *error: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
