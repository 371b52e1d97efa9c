"""Orders of techniques: which letter's technique is the objective of which stage.

`PQD` trains P, then Q, then D, a stage each; `(PQ)D` both in one stage; `.` is a stage
of plain training, and so are the stages after the last letter.
"""

from __future__ import annotations

import itertools
import re
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import BeforeValidator, Field, model_validator

from compress.config.base import Model
from compress.config.pruning import Prune, Shrink
from compress.config.techniques import Distill, Quantize

IN_STAGES = ("prune", "shrink", "quantize", "distill")
InStages = Literal["prune", "shrink", "quantize", "distill"]

_GROUP = re.compile(r"([A-Z.])|\(([A-Z]{2,})\)")
_WRITE = (
    "write a letter per stage, like 'PQD'; '(PQ)D' puts two into one stage, and '.' "
    "leaves a stage plain"
)


class Objective(Model):
    """What a letter stands for: the settings of one technique."""

    prune: Prune | None = Field(
        default=None, description="Pruning; the masks hold in every later stage."
    )
    shrink: Shrink | None = Field(
        default=None, description="Units masked in its stage and removed at its end."
    )
    quantize: Quantize | None = Field(
        default=None, description="QAT from its stage on, to the end of the last."
    )
    distill: Distill | None = Field(
        default=None, description="Distillation in its stage, and later if it stays."
    )
    stays: bool = Field(
        default=False,
        description="Whether distillation goes on in every later stage.",
    )

    @model_validator(mode="after")
    def _is_one_technique(self) -> Objective:
        given = [name for name in IN_STAGES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(IN_STAGES)}: a letter is one")
        if self.stays and self.distill is None:
            raise ValueError("only distill may stay or not; remove stays")
        return self

    @property
    def technique(self) -> InStages:
        """Which of the techniques it is."""
        return next(name for name in IN_STAGES if getattr(self, name) is not None)

    @property
    def goes_on(self) -> bool:
        """Whether later stages have it too."""
        return self.quantize is not None or self.stays


def parse_order(text: str) -> list[str]:
    """The letters of each stage in turn: `['PQ', '', 'D']` of `(PQ).D`.

    Raises:
      ValueError: If it is not letters and groups of letters, each letter once.
    """
    found = [*_GROUP.finditer(text)]
    if "".join(match[0] for match in found) != text:
        raise ValueError(_WRITE)
    stages = [match[2] or match[1].replace(".", "") for match in found]
    letters = "".join(stages)
    twice = next((a for i, a in enumerate(letters) if a in letters[:i]), None)
    if twice:
        raise ValueError(f"{twice} is there twice; a letter has one stage")
    return stages


def all_orders(letters: str) -> list[str]:
    """Every subset of the letters in every order, and all of them in one stage."""
    sizes = range(len(letters) + 1)
    ordered = [
        "".join(order) for n in sizes for order in itertools.permutations(letters, n)
    ]
    ordered.sort(key=lambda order: (len(order), sorted(map(letters.index, order))))
    return [*ordered, *([f"({letters})"] if len(letters) > 1 else [])]


def _as_order(value: Any) -> Any:
    if isinstance(value, str):
        parse_order(value)
    return value


def _as_letters(value: Any) -> Any:
    if isinstance(value, str) and not are_letters(value):
        raise ValueError("write letters of compare.techniques, each once, like PQD")
    return value


def are_letters(value: Any) -> TypeGuard[str]:
    """Whether a value is some capital letters, each once."""
    if not isinstance(value, str) or not re.fullmatch("[A-Z]+", value):
        return False
    return len(set(value)) == len(value)


Order = Annotated[str, BeforeValidator(_as_order)]
Letters = Annotated[str, BeforeValidator(_as_letters)]
