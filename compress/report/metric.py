"""The number that rows are judged by: how it is called, shown and compared."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class MetricRecord:
    """A task's metric, without its function; by default the accuracy.

    Attributes:
      name: "accuracy", "loss", "cosine".
      unit: Of a shown score: "%", "nats", or nothing.
      scale: A score is shown multiplied by it.
      higher_is_better: False for losses and errors.
    """

    name: str = "accuracy"
    unit: str = "%"
    scale: float = 100.0
    higher_is_better: bool = True

    @property
    def heading(self) -> str:
        """Of a column: `Accuracy %`, `Loss, nats`, `Cosine`."""
        separator = " " if self.unit == "%" else ", " if self.unit else ""
        return f"{self.title}{separator}{self.unit}"

    @property
    def title(self) -> str:
        """The name at the start of a sentence."""
        return self.name[:1].upper() + self.name[1:]

    @property
    def axis(self) -> str:
        """Of a plot: `accuracy (%)`."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def points(self) -> str:
        """The unit of a difference."""
        return "points" if self.unit == "%" else self.unit

    @property
    def best(self) -> str:
        """`Most accurate`, `Lowest loss`, `Highest cosine`."""
        if self.name == "accuracy":
            return "Most accurate"
        return f"{'Highest' if self.higher_is_better else 'Lowest'} {self.name}"

    @property
    def decimals(self) -> int:
        """Those that show a ten-thousandth of an unscaled score."""
        return max(0, 4 - round(math.log10(self.scale)))

    def shown(self, value: float, sign: str = "-") -> str:
        """`83.12`; with `sign="+"` also positive numbers have theirs."""
        rounded = round(self.scale * value, self.decimals) + 0.0  # no "-0.00"
        return f"{rounded:{sign}.{self.decimals}f}"

    def with_unit(self, value: float) -> str:
        """`83.12 %`."""
        return f"{self.shown(value)} {self.unit}".strip()

    def merit(self, value: float) -> float:
        """A number that is larger for a better score, or for a better difference."""
        return value if self.higher_is_better else -value

    def derived(self, score: float) -> dict[str, float]:
        """What follows from a score: the perplexity from a loss in nats."""
        # Beyond 700 nats float64 has no exponential.
        return {"perplexity": math.exp(min(score, 700.0))} if self._is_loss else {}

    @property
    def _is_loss(self) -> bool:
        return self.unit == "nats" and not self.higher_is_better


def score_text(score: float, metric: Mapping[str, Any]) -> str:
    """A score as a reader should see it: `1.5321 nats (perplexity 4.63)`.

    Args:
      score: As in `result.json`.
      metric: As in `result.json`.
    """
    record = MetricRecord(**metric)
    derived = [f"{name} {x:.4g}" for name, x in record.derived(score).items()]
    return record.with_unit(score) + (f" ({', '.join(derived)})" if derived else "")
