"""Turns pydantic's errors into problems in a user's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from compress.config.errors import Problem, describe
from compress.config.fields import fields_at, unknown_key
from compress.config.paths import KeyPath

_KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list, like [a, b]",
    "dict_type": "a mapping of `key: value` lines",
    "mapping_type": "a mapping of `key: value` lines",
    "model_type": "a mapping of `key: value` lines",
}

_LIMITS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


def problems_in(tree: Any, error: ValidationError) -> Iterator[Problem]:
    """The problems of `error`, with paths as they are written in `tree`."""
    for detail in error.errors(include_url=False):
        if detail["type"] == "too_short" and _long_enough(detail):
            continue  # Pydantic's echo of wrong items, which it does not count.
        yield Problem(_written(tree, detail["loc"]), _message(detail))


def _long_enough(detail: ErrorDetails) -> bool:
    found = detail["input"]
    return isinstance(found, tuple) and len(found) >= _context(detail)["min_length"]


def _written(tree: Any, path: KeyPath) -> KeyPath:
    """Cuts a path where the user wrote a scalar for a mapping or a list."""
    node = tree
    for depth, step in enumerate(path):
        if isinstance(node, dict):
            node = node.get(step)
        elif isinstance(node, (list, tuple)) and isinstance(step, int):
            node = node[step] if step < len(node) else None
        elif node is not None:
            return path[:depth]
    return path


def _message(detail: ErrorDetails) -> str:
    kind, path, found = detail["type"], detail["loc"], detail["input"]
    context = _context(detail)
    if kind == "extra_forbidden":
        return unknown_key(path) or "unknown key; remove it"
    if kind == "missing":
        return f"this key is missing; add it. {_description(path)}"
    if kind == "value_error":
        return f"found {describe(found)}; {context['error']}"
    if kind == "literal_error":
        return f"found {describe(found)}; use {context['expected']}"
    if kind == "string_pattern_mismatch":
        return f"found {describe(found)}; write it as {_example(path)}"
    if kind in ("too_short", "string_too_short"):
        noun = "text" if kind == "string_too_short" else _container(found)
        return f"found an empty {noun}; give at least {context['min_length']}"
    if kind in _LIMITS:
        words, bound = _LIMITS[kind]
        return f"found {describe(found)}; must be {words} {context[bound]:g}"
    if kind in _KINDS:
        return f"found {describe(found)}; write {_KINDS[kind]}{_instead(kind, found)}"
    return f"found {describe(found)}; {detail['msg'][:1].lower()}{detail['msg'][1:]}"


def _container(found: Any) -> str:
    return "mapping" if isinstance(found, Mapping) else "list"


def _context(detail: ErrorDetails) -> dict[str, Any]:
    return detail.get("ctx", {})


def _instead(kind: str, found: Any) -> str:
    """The likely correction of a value of the wrong kind."""
    if kind == "int_type" and isinstance(found, float) and found.is_integer():
        return f", {int(found)}"
    if kind == "string_type" and isinstance(found, (int, float)):
        return f", in quotes: '{describe(found)}'"
    if kind == "float_type" and isinstance(found, str) and _reads_as_number(found):
        return ", without quotes"
    return ""


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _field_text(path: KeyPath) -> Any:
    fields = fields_at(path[:-1]) or {}
    return fields.get(str(path[-1]))


def _description(path: KeyPath) -> str:
    field = _field_text(path)
    return field.description if field else ""


def _example(path: KeyPath) -> str:
    field = _field_text(path)
    return field.examples[0] if field and field.examples else "described"
