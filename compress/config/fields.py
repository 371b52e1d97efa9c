"""Which keys the schema has at a path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from compress.config.models import Config
from compress.config.names import did_you_mean
from compress.config.paths import KeyPath

# Keys of a file that are gone once it is resolved.
FILE_ONLY = ("base", "fast")


def fields_at(path: KeyPath) -> dict[str, FieldInfo] | None:
    """The fields of the mapping at `path`; None where any key goes, or none does."""
    model: type[BaseModel] | None = Config
    by_key = False  # Whether the next step is any key of a mapping of models.
    for step in path:
        if isinstance(step, int) or by_key:
            by_key = False
            continue
        field = model.model_fields.get(step) if model else None
        model = _model_in(field.annotation) if field else None
        by_key = field is not None and get_origin(field.annotation) is Mapping
    return model.model_fields if model and not by_key else None


def unknown_key(path: KeyPath) -> str | None:
    """What to say of a key the schema does not have; None when it is fine."""
    key, fields = path[-1], fields_at(path[:-1])
    if fields is None or key in fields or isinstance(key, int):
        return None
    if key in FILE_ONLY and len(path) == 1:
        return f"only a file may have {key!r}, not an override or a resolved config"
    return f"unknown key; {did_you_mean(key, fields)}"


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside `X | None`, `tuple[X, ...]` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(part) for part in get_args(annotation))
    return next((model for model in found if model), None)
