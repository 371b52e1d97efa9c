"""Which checkpoints stay: the newest, and the best of the stage."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Score(NamedTuple):
    """How a checkpoint did.

    Attributes:
      stage: In which it was saved.
      value: Of its evaluation; more is better.
    """

    stage: str
    value: float


class NewestAndBest:
    """A policy of orbax: the last few, and the best few of the last scored stage.

    Before a network is pruned or quantized it does better, and is not what the run is
    for: checkpoints of earlier stages do not compete.
    """

    def __init__(self, newest: int, best: int) -> None:
        self._newest, self._best = newest, best
        self._scores: dict[int, Score] = {}

    def scored(self, step: int, score: Score) -> None:
        """Notes how the checkpoint of a step did."""
        self._scores[step] = score

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> list[bool]:
        """As orbax asks it, oldest first."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*steps[-self._newest :], *self._best_of(steps)}
        return [step in kept for step in steps]

    def _best_of(self, steps: Sequence[int]) -> list[int]:
        known = [step for step in steps if step in self._scores]
        if not known:
            return []
        stage = self._scores[known[-1]].stage
        rivals = [step for step in known if self._scores[step].stage == stage]
        # Of equal ones the later: it has been trained for longer.
        rivals.sort(key=lambda step: (self._scores[step].value, step))
        return rivals[len(rivals) - min(self._best, len(rivals)) :]
