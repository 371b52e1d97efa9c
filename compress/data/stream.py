"""Batches of a source, read ahead by threads, in an order that needs no memory.

Which examples a step sees is a function of the step and the key. So a run that goes on
from a checkpoint starts its stream at that step and sees what it would have seen:
there is no iterator whose state must be saved.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from compress.data.source import UNREADABLE, DataError, Source, rows
from compress.extras import require

_THREADS = 8
_BATCHES_AHEAD = 4


class Stream:
    """The batches of a run, from some step on.

    Attributes:
      step: That of the next batch.
      waited: Seconds in which the device had nothing to do but wait for a batch.
    """

    def __init__(
        self, source: Source, indices_at: Callable[[int], np.ndarray], start: int
    ) -> None:
        """Starts reading.

        Args:
          source: Of the examples.
          indices_at: `(step) -> positions` of the examples of that step's batch.
          start: The first step.
        """
        grain: Any = require("grain", user="data read from files", extra="data")
        options = grain.ReadOptions(
            num_threads=_THREADS, prefetch_buffer_size=_BATCHES_AHEAD
        )
        steps = grain.MapDataset.range(start, 2**31 - 1)
        batches = steps.map(lambda step: rows(source, indices_at(int(step))))
        self._batches: Iterator[dict[str, np.ndarray]] = iter(
            batches.to_iter_dataset(options)
        )
        self.step = start
        self.waited = 0.0

    def next(self, pending: Any = None) -> dict[str, np.ndarray]:
        """The batch of the next step.

        Args:
          pending: An array the device computes meanwhile; if it is done before the
            batch is there, the time counts as waited, from when the batch was asked
            for.

        Raises:
          DataError: If a file cannot be read any more.
        """
        before = time.monotonic()
        try:
            batch = next(self._batches)
        except UNREADABLE as error:
            raise DataError(
                f"the batch of step {self.step + 1} cannot be read: {error}. Mend the "
                "file; --resume goes on from the newest checkpoint."
            ) from error
        if pending is None or pending.is_ready():
            self.waited += time.monotonic() - before
        self.step += 1
        return batch
