"""Checks the structure of what was read from JSON, before anybody relies on it."""

from collections.abc import Mapping
from typing import Any

# A size that no array of ours reaches; more is an attempt to make us allocate.
LARGEST_SIZE = 2**48


class Mismatch(ValueError):
    """A value that is not what its specification says."""


def require(value: Any, spec: Any, where: str) -> None:
    """Checks a value against a specification.

    Args:
      value: From JSON.
      spec: A type; a function of the value; `[spec]` for a list of such; `{"key":
        spec}` for an object with these keys, `"key?"` if it may be absent; `{str:
        spec}` for an object of any keys.
      where: What the value is called, for the message.

    Raises:
      Mismatch: That says where, what was expected, and what was found.
    """
    if isinstance(spec, list):
        _kind(value, list, where)
        for index, item in enumerate(value):
            require(item, spec[0], f"{where}[{index}]")
    elif isinstance(spec, Mapping):
        _kind(value, dict, where)
        _require_keys(value, spec, where)
    elif isinstance(spec, type):
        _kind(value, spec, where)
    elif not spec(value):
        raise Mismatch(f"{where} is {_shown(value)}, not {spec.__name__}")


def _require_keys(
    value: Mapping[str, Any], spec: Mapping[Any, Any], where: str
) -> None:
    if str in spec:
        for key, item in value.items():
            require(item, spec[str], f"{where}.{key[:60]}")
        return
    for name, inner in spec.items():
        key = name.removesuffix("?")
        if key in value:
            require(value[key], inner, f"{where}.{key}".removeprefix("."))
        elif key == name:
            raise Mismatch(f"{where}.{key} is missing".removeprefix("."))


def _kind(value: Any, kind: type, where: str) -> None:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Mismatch(f"{where} is {_shown(value)}, not a {kind.__name__}")


def _shown(value: Any) -> str:
    return str(value)[:60] if isinstance(value, (str, int, float)) else str(type(value))


def size(value: Any) -> bool:
    """A count that an array may have."""
    return type(value) is int and 0 <= value < LARGEST_SIZE


def positive(value: Any) -> bool:
    """A count of at least one."""
    return size(value) and value > 0


def number(value: Any) -> bool:
    """A number, NaN included."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def scale(value: Any) -> bool:
    """The size of one integer step."""
    return number(value) and 0 < value < float("inf")


def batch(value: Any) -> bool:
    """The size of a batch, or the name of a free one."""
    return value == "batch" or positive(value)


def batch_or_none(value: Any) -> bool:
    """The size of a batch, or null."""
    return value is None or positive(value)


def dimension(value: Any) -> bool:
    """An axis: its size, or an expression of the free batch size."""
    return size(value) or (isinstance(value, str) and len(value) < 200)


def text_or_none(value: Any) -> bool:
    """A text, or null."""
    return value is None or isinstance(value, str)
