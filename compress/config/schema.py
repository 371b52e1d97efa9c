"""The JSON schema of config files, for editors."""

from __future__ import annotations

from typing import Any

from compress.config.models import Config

# Keys the models hold but a file may leave out: they are filled in, or come from a
# base file that the one at hand is merged into.
_MAY_BE_ABSENT = {
    "Stage": ("name",),
    "Compare": ("rows", "reference"),
    "Row": ("name",),
    "Teacher": ("model", "steps", "learning_rate"),
}

_BASE = {
    "type": "string",
    "description": "File that this one is laid over; relative to this file.",
}
_FAST = {
    "type": "object",
    "description": "Values by path, such as `stages[0].steps: 2`, that shrink the run "
    "to seconds; used only when asked for.",
}


def json_schema() -> dict[str, Any]:
    """The schema of a file, for `# yaml-language-server: $schema=...`."""
    schema = Config.model_json_schema()
    for name, keys in _MAY_BE_ABSENT.items():
        _make_optional(schema["$defs"][name], keys)
    schema["properties"] |= {"base": _BASE, "fast": _FAST}
    required = schema.pop("required")
    schema["anyOf"] = [{"required": ["base"]}, {"required": required}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _make_optional(schema: dict[str, Any], keys: tuple[str, ...]) -> None:
    required = [key for key in schema["required"] if key not in keys]
    schema["required"] = required
