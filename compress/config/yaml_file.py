"""Reads YAML text into a `Document`: YAML 1.2 scalars, places, no silent surprises.

PyYAML alone follows YAML 1.1: `1e-3` is text, `no` is false, and the last of two
equal keys wins.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from compress.config.document import Document
from compress.config.errors import ConfigError, Problem, describe
from compress.config.names import nearest
from compress.config.paths import KeyPath

_TAG = "tag:yaml.org,2002:"

# The core schema of YAML 1.2, section 10.3.2; the characters are those a match may
# begin with. https://yaml.org/spec/1.2.2/#1032-tag-resolution
_FINITE = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
_NOT_FINITE = r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", f"{_FINITE}|{_NOT_FINITE}", list("-+.0123456789")),
)


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with the scalars of YAML 1.2."""


_Loader.yaml_implicit_resolvers = {}  # None of YAML 1.1's.
for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(
        _TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first
    )


class _Reading(NamedTuple):
    """What is collected on the way through one file."""

    name: str
    places: dict[KeyPath, str]
    problems: list[Problem]

    def at(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}: "


def read_file(path: Path, place: str = "") -> Document:
    """Reads one file, without its base.

    Args:
      path: The file.
      place: Text that goes before an error about the path itself.

    Raises:
      ConfigError: If there is no such file, or it is not one YAML mapping.
    """
    name = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(name, [f"{place}{_unreadable(path, error)}"]) from None
    return read_text(text, name)


def read_text(text: str, name: str) -> Document:
    """Reads YAML text; `name` stands for the file in errors.

    Raises:
      ConfigError: If it is not one YAML mapping.
    """
    node = _compose(text, name)
    if node is None:
        message = "the file is empty; it needs at least task, batch_size and stages"
        raise ConfigError(name, [f"{name}:1: {message}"])
    reading = _Reading(name, {(): f"{name}:1: "}, [])
    tree = _value(node, (), reading, ())
    if not isinstance(tree, dict):
        message = f"found {describe(tree)}; write `key: value` lines, such as `task: x`"
        raise ConfigError(name, [f"{reading.at(node)}{message}"])
    return Document(name, tree, reading.places, tuple(reading.problems))


def read_value(text: str) -> Any:
    """Reads the value of an override: a scalar, `[a, b]` or `{a: b}`.

    Raises:
      ValueError: If it is not valid YAML.
    """
    # A site pattern, which YAML would take for an alias.
    if text.lstrip().startswith("*"):
        return text.strip()
    try:
        node = _compose(text, "value")
    except ConfigError as error:
        raise ValueError(error.problems[0].removeprefix("value:1: ")) from None
    if node is None:
        return None
    reading = _Reading("value", {}, [])
    value = _value(node, (), reading, ())
    for problem in reading.problems:
        raise ValueError(problem._replace(place="").line(""))
    return value


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}: " if mark else f"{name}: "
        raise ConfigError(name, [f"{place}{_broken(error)}"]) from None
    except yaml.YAMLError as error:
        message = str(error).splitlines()[0]
        raise ConfigError(name, [f"{name}: {message}; save it as plain text"]) from None
    except RecursionError:
        raise ConfigError(name, [f"{name}: too deeply nested to read"]) from None


def _value(
    node: yaml.Node, path: KeyPath, reading: _Reading, parents: tuple[yaml.Node, ...]
) -> Any:
    if any(node is parent for parent in parents):
        message = "this alias holds itself; write the value out"
        reading.problems.append(Problem(path, message, reading.at(node)))
        return None
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, reading, (*parents, node))
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            here = (*path, index)
            reading.places[here] = reading.at(item)
            items.append(_value(item, here, reading, (*parents, node)))
        return items
    return _scalar(node, path, reading)


def _mapping(
    node: yaml.MappingNode,
    path: KeyPath,
    reading: _Reading,
    parents: tuple[yaml.Node, ...],
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key = key_node.value
        if key_node.tag != f"{_TAG}str":
            found = describe(key) if isinstance(key, str) else "a list or a mapping"
            message = f"found the key {found}; keys are text, so write it in quotes"
            reading.problems.append(Problem(path, message, reading.at(key_node)))
            continue
        here = (*path, key)
        if key in values:
            message = f"duplicate key; it is on line {lines[key]} too, so remove one"
            reading.problems.append(Problem(here, message, reading.at(key_node)))
            continue
        reading.places[here] = reading.at(key_node)
        lines[key] = key_node.start_mark.line + 1
        values[key] = _value(value_node, here, reading, parents)
    return values


def _scalar(node: yaml.Node, path: KeyPath, reading: _Reading) -> Any:
    tag, text = node.tag.removeprefix(_TAG), node.value
    try:
        if tag in _CONVERT:
            return _CONVERT[tag](text)
        message = f"unknown tag {node.tag!r}; write the value without a tag"
    except (ValueError, KeyError):
        message = f"{text!r} is not of type {tag}; write the value without a tag"
    reading.problems.append(Problem(path, message, reading.at(node)))
    return None


def _integer(text: str) -> int:
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text, 10)


def _float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


_CONVERT = {
    "null": lambda text: None,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": _integer,
    "float": _float,
    "str": str,
}


def _unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"{path}: not UTF-8 text; save it as UTF-8"
    if path.is_dir():
        return f"{path}: is a folder; name a file in it, such as {path}/run.yaml"
    if not isinstance(error, FileNotFoundError):
        return f"{path}: cannot be read: {getattr(error, 'strerror', error)}"
    if not path.parent.is_dir():
        return f"{path}: no such file; there is no folder {path.parent} either"
    beside = [other.name for other in path.parent.iterdir() if other.is_file()]
    near = nearest(path.name, beside, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"check {path.parent} for its name"
    return f"{path}: no such file; {hint}"


def _broken(error: yaml.MarkedYAMLError) -> str:
    """What is wrong in YAML's grammar, and the usual remedy."""
    problem = error.problem or "cannot be parsed"
    if r"'\t'" in problem:
        return "found a tab; indent with spaces"
    if "alias" in f"{error.context}{problem}":
        return f'{problem}; quote text that starts with *, like "**/kernel"'
    if "another document" in problem:
        return "found a second document; keep one per file, with one --- at most"
    if "mapping values" in problem:
        return f"{problem}; check the indentation, and quote text with ': ' in it"
    context = f" {error.context}" if error.context else ""
    return f"broken YAML{context}: {problem}; check brackets, quotes and indentation"
