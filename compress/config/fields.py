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
    kind: Any = Config
    for step in path:
        if not isinstance(step, int):
            kind = _value_at(kind, step)
    model = _model_in(kind)
    return model.model_fields if model else None


def _value_at(kind: Any, key: str) -> Any:
    """The annotation of what `key` holds in a value annotated with `kind`."""
    if get_origin(kind) is Mapping:
        return get_args(kind)[1]
    model = _model_in(kind)
    if model:
        field = model.model_fields.get(key)
        return field.annotation if field else None
    found = (_value_at(part, key) for part in get_args(kind))
    return next((value for value in found if value is not None), None)


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
    if get_origin(annotation) is Mapping:
        return None  # Its keys are anyone's.
    found = (_model_in(part) for part in get_args(annotation))
    return next((model for model in found if model), None)
