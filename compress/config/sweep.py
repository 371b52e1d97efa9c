"""The schema of `sweep:`: many runs of one config, and what to look for in them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from compress.config.base import Many, Model, Name, Scalar
from compress.config.names import did_you_mean

MEASURES = {
    "validation_score": "of the exported artifact on the validation set: to choose by",
    "score": "the same on the test set: to report, not to choose by",
    "trained_score": "of the trained forward, before export",
    "agreement": "fraction of test items decided as by the trained forward",
    "sparsity": "fraction of zeros among the weights that can be pruned",
    "bytes": "of the weights file",
    "dense_bytes": "every weight at its bit width, zeros included",
    "bitmask_bytes": "one bit per weight, plus the weights that are not zero",
    "index_bytes": "every non-zero weight with the distance to the one before it",
    "entropy_bytes": "order-0 entropy of each weight array",
    "zlib_bytes": "all arrays together, compressed",
    "program_bytes": "of the artifact's programs",
    "macs": "multiply-accumulates for one example",
    "bops": "bit operations for one example",
}
"""What a search can look at: one number per run, from its result."""

_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "%": 0.01}
_CONSTRAINT = re.compile(
    r"(?P<name>[A-Za-z_]\w*) *(?P<sign><=|>=) *"
    r"(?P<number>[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?) *(?P<unit>[kMG%]?)"
)


class Constraint(NamedTuple):
    """What a run must keep to.

    Attributes:
      measure: One of `MEASURES`.
      is_upper: Whether `bound` is the most, not the least, that is allowed.
      bound: In the measure's own unit.
    """

    measure: str
    is_upper: bool
    bound: float

    def violation(self, value: float) -> float:
        """By how much it is broken, as a fraction of the bound; 0 or less if kept."""
        over = value - self.bound if self.is_upper else self.bound - value
        return over / self.bound if self.bound else over


def parse_constraint(text: str) -> Constraint:
    """Reads `bytes <= 200k`.

    Raises:
      ValueError: If it is not a measure, `<=` or `>=`, and a number with or without
        one of k, M, G (thousands) and %.
    """
    match = _CONSTRAINT.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            "write a measure, <= or >=, and a number that may end in k, M, G or %, "
            "such as bytes <= 200k"
        )
    name = _known(match["name"])
    bound = float(match["number"]) * _UNITS[match["unit"]]
    if not math.isfinite(bound):
        raise ValueError("give a finite bound")
    return Constraint(name, match["sign"] == "<=", bound)


def _known(measure: str) -> str:
    if measure not in MEASURES:
        raise ValueError(
            f"no measure is called {measure!r}; {did_you_mean(measure, MEASURES)}"
        )
    return measure


def _check_constraint(text: str) -> str:
    parse_constraint(text)
    return text


def _as_dimension(value: Any) -> Any:
    return {"choices": value} if isinstance(value, (list, tuple)) else value


class Dimension(Model):
    """What one value of the config may be; a plain list is `choices`."""

    low: int | float | None = Field(default=None, description="The least.")
    high: int | float | None = Field(default=None, description="The most, included.")
    step: int | float | None = Field(
        default=None, gt=0, description="Only `low` plus multiples of this."
    )
    log: bool = Field(
        default=False, description="Whether ratios matter, not differences."
    )
    choices: Many[Scalar] | None = Field(
        default=None, min_length=1, description="One of these, instead of a range."
    )

    @property
    def is_integer(self) -> bool:
        """Whether the range is of whole numbers: both of its ends are."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @model_validator(mode="after")
    def _is_a_range_or_choices(self) -> Dimension:
        low, high = self.low, self.high
        if self.choices is not None:
            if low is not None or high is not None or self.step or self.log:
                raise ValueError("has choices and a range; give one of the two")
        elif low is None or high is None:
            raise ValueError("give low and high, or a list of choices")
        elif low >= high:
            raise ValueError(f"low ({low}) must be below high ({high})")
        elif self.log and (low <= 0 or self.step is not None):
            raise ValueError("log needs a low above 0, and takes no step")
        elif self.is_integer and isinstance(self.step, float):
            raise ValueError(f"the step ({self.step}) of whole numbers must be one")
        return self


class Search(Model):
    """Runs chosen one after the other, from what earlier ones gave."""

    space: Mapping[str, Annotated[Dimension, BeforeValidator(_as_dimension)]] = Field(
        min_length=1,
        description="By path, what a value may be: `{low: 0.5, high: 0.95}` or a list.",
    )
    objectives: Mapping[
        Annotated[str, AfterValidator(_known)], Literal["maximize", "minimize"]
    ] = Field(
        min_length=1,
        description="Measures of a run, the mean over its seeds, and which way is "
        "better; several give a Pareto front.",
    )
    constraints: Many[Annotated[Name, AfterValidator(_check_constraint)]] = Field(
        default=(), description="What a run must keep to: `bytes <= 200k`."
    )
    trials: int = Field(ge=1, description="How many sets of values are tried.")
    sampler: Literal["tpe", "nsga2"] = Field(
        default="tpe",
        description="tpe: models good and bad trials; nsga2: a genetic algorithm, for "
        "hundreds of trials.",
    )
    at_a_time: int | None = Field(
        default=None,
        ge=1,
        description="Trials chosen together, from the results of those before, however "
        "many workers run them; default 4, or 20 for nsga2, where it is a generation.",
    )
    seed: int = Field(default=0, ge=0, description="Of the sampler.")

    @property
    def batch(self) -> int:
        """How many trials are chosen together."""
        return self.at_a_time or (4 if self.sampler == "tpe" else 20)


class Sweep(Model):
    """Many runs of this config, by one of `grid`, `list` and `search`."""

    grid: Mapping[str, Annotated[Many[Any], Field(min_length=1)]] | None = Field(
        default=None,
        min_length=1,
        description="By path, the values it takes: every combination is run.",
    )
    list: Many[Mapping[str, Any]] | None = Field(
        default=None,
        min_length=1,
        description="The runs, each as values by path.",
    )
    search: Search | None = Field(
        default=None, description="Runs chosen by optuna, from the results so far."
    )

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Sweep:
        kinds = ("grid", "list", "search")
        given = [kind for kind in kinds if getattr(self, kind) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"give one of grid, list and search (here: {found})")
        return self
