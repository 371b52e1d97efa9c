"""What the models of the schema are made of."""

from __future__ import annotations

import math
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_T = TypeVar("_T")


def as_tuple(value: Any) -> Any:
    """Strict pydantic takes no list for a tuple, and a file holds only lists."""
    return tuple(value) if isinstance(value, list) else value


def _as_patterns(value: Any) -> Any:
    return (value,) if isinstance(value, str) else as_tuple(value)


def _as_scalar(value: Any) -> Any:
    finite = not isinstance(value, float) or math.isfinite(value)
    if finite and (value is None or isinstance(value, (str, int, float))):
        return value
    raise ValueError("write text, a finite number, true, false or null")


class Model(BaseModel):
    """A mapping with known keys."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False
    )


Name = Annotated[str, Field(min_length=1)]
Scalar = Annotated[str | int | float | bool | None, BeforeValidator(_as_scalar)]
Many = Annotated[tuple[_T, ...], BeforeValidator(as_tuple)]
Patterns = Annotated[
    tuple[Name, ...],
    BeforeValidator(_as_patterns, json_schema_input_type=Name | list[Name]),
]


class Sites(Model):
    """Which sites a technique is for."""

    sites: Patterns = Field(
        default=("**",),
        min_length=1,
        description="Glob pattern, or list of them, of sites.",
    )
    exclude: Patterns = Field(
        default=(),
        description="Glob pattern, or list of them, of sites to leave alone.",
    )
