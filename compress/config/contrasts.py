"""Contrasts: what two rows are said to be to each other, before anything is run."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter

from compress.config.base import Model, Name
from compress.config.errors import describe

Relation = Literal["-", ">", ">=", "="]
WITH_MARGIN = "=", ">="

_RELATION = re.compile(r"\s+(-|>=|>|=)\s+")
_WRITE = (
    "write 'A - B' (they differ), 'A > B' (A is better), or with a margin 'A = B' "
    "(they are the same) or 'A >= B' (A is not worse), with spaces around the sign"
)


class Contrast(Model):
    """Two rows, and what is claimed of them."""

    row: Name = Field(description="Name of a row.")
    other: Name = Field(description="Name of the row it is compared with.")
    relation: Relation = Field(
        default="-",
        description="What is claimed: they differ (-), the row is better (>), or, by "
        "less than the margin, not worse (>=) or the same (=).",
    )
    margin: float | None = Field(
        default=None,
        gt=0,
        description="Largest difference that counts as none, in the unit of the table: "
        "points of accuracy.",
    )

    @property
    def text(self) -> str:
        """`PQD - PQ`."""
        return f"{self.row} {self.relation} {self.other}"


class Claim(Model):
    """A contrast as it is written with a margin."""

    claim: Name = Field(description="Two rows: 'A = B', 'A >= B', 'A - B' or 'A > B'.")
    margin: float | None = Field(
        default=None, gt=0, description="Largest difference that counts as none."
    )


def parse_contrast(value: Any) -> Contrast:
    """A contrast in any of its spellings: text, a pair of rows, a mapping.

    Raises:
      ValueError: If it is none of these.
    """
    return _ADAPTER.validate_python(value)


def margin_problem(contrast: Contrast) -> str | None:
    """What is wrong with a margin, or the lack of one."""
    text = describe(contrast.text)
    if contrast.relation in WITH_MARGIN and contrast.margin is None:
        return (
            f"{text} has no margin; write {{claim: {text}, margin: 0.5}}, where 0.5 is "
            "the largest difference that counts as none"
        )
    if contrast.relation not in WITH_MARGIN and contrast.margin is not None:
        return (
            f"{text} has a margin, which goes with '=' (the same) or '>=' (not worse); "
            "remove it, or claim one of these"
        )
    return None


def _as_contrast(value: Any) -> Any:
    if isinstance(value, str):
        return _split(value)
    if isinstance(value, (list, tuple)):
        if len(value) == 2 and all(isinstance(name, str) for name in value):
            return {"row": value[0], "other": value[1]}
        raise ValueError(f"name two rows; or {_WRITE}")
    if isinstance(value, dict) and isinstance(value.get("claim"), str):
        rest = {key: item for key, item in value.items() if key != "claim"}
        return {**_split(value["claim"]), **rest}
    return value


def _split(text: str) -> dict[str, str]:
    parts = _RELATION.split(text.strip())
    if len(parts) != 3:
        raise ValueError(_WRITE)
    return {"row": parts[0], "relation": parts[1], "other": parts[2]}


AnyContrast = Annotated[
    Contrast,
    BeforeValidator(
        _as_contrast,
        json_schema_input_type=Name
        | Annotated[list[Name], Field(min_length=2, max_length=2)]
        | Claim
        | Contrast,
    ),
]
_ADAPTER: TypeAdapter[Contrast] = TypeAdapter(AnyContrast)
