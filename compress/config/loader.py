"""A file, its bases and the overrides, to a config."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from compress.config.document import Document, merge, with_setting
from compress.config.errors import ConfigError, Problem, describe
from compress.config.models import Config
from compress.config.rows import row_problems
from compress.config.sweep_rows import sweep_problems
from compress.config.validation import check
from compress.config.yaml_file import read_file, read_value


def load_config(
    path: str | os.PathLike[str], overrides: Iterable[str] = (), fast: bool = False
) -> Config:
    """Reads a config file.

    Values come from the file's `base:`, the file itself, its `fast:` when asked for,
    then `overrides`; the later wins.

    Args:
      path: The YAML file.
      overrides: Settings such as `stages[1].prune.sparsity=0.9`.
      fast: Whether to apply the file's `fast:`, which shrinks the run.

    Raises:
      ConfigError: With every problem found, and the line of each.
    """
    document, shrink = _split_fast(_read_with_bases(Path(path), (), ""))
    if document.tree.get("name") is None:
        document.tree["name"] = Path(path).stem
    asked = _with_overrides(_shrunk(document, shrink) if fast else document, overrides)
    config, lines = _resolve(asked)
    if not fast:
        lines += _fast_lines(document, shrink)
    if lines or config is None:
        raise ConfigError(str(path), lines)
    return config


def parse_config(mapping: object) -> Config:
    """Validates a resolved config, such as a run directory's `config.json`.

    Raises:
      ConfigError: With every problem found.
    """
    if not isinstance(mapping, Mapping):
        message = f"found {describe(mapping)}; give a mapping, as model_dump returns"
        raise ConfigError("the config", [message])
    config, lines = _resolve(Document("the config", _plain(mapping), {}))
    if lines or config is None:
        raise ConfigError("the config", lines)
    return config


def _resolve(document: Document) -> tuple[Config | None, list[str]]:
    """Validates a document and its rows; the problems as lines."""
    config, problems = check(document)
    problems = [*problems, *row_problems(document, problems)]
    problems = [*problems, *sweep_problems(document, problems)]
    return config, [document.line(problem) for problem in problems]


def _plain(value: Any) -> Any:
    """A copy in dicts and lists only, as a file would give it."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _read_with_bases(path: Path, above: tuple[Path, ...], place: str) -> Document:
    """Reads a file over its base; `above` are the files that led to it."""
    if any(_same(path, other) for other in above):
        chain = " -> ".join(str(item) for item in (*above, path))
        message = f"base files form a cycle, {chain}; remove one of these base lines"
        raise ConfigError(str(above[0]), [f"{place}{message}"])
    document = read_file(path, place)
    base = document.tree.pop("base", None)
    if base is None:
        return document
    where = document.place(("base",))
    if not isinstance(base, str):
        message = f"base: found {describe(base)}; write one file name"
        raise ConfigError(str(path), [f"{where}{message}"])
    below = Path(os.path.normpath(path.parent / base))
    return merge(_read_with_bases(below, (*above, path), f"{where}base: "), document)


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _split_fast(document: Document) -> tuple[Document, dict[str, Any]]:
    tree = dict(document.tree)
    shrink = tree.pop("fast", None)
    document = document._replace(tree=tree)
    if shrink is None:
        return document, {}
    if not isinstance(shrink, dict):
        message = (
            f"found {describe(shrink)}; write a mapping of paths to values, such as "
            "`stages[0].steps: 2`"
        )
        return document.with_problem(Problem(("fast",), message)), {}
    return document, shrink


def _shrunk(document: Document, shrink: Mapping[str, Any]) -> Document:
    for dotted, value in shrink.items():
        document = with_setting(document, dotted, value, _fast_place(document, dotted))
    return document


def _fast_place(document: Document, dotted: str) -> str:
    return f"{document.place(('fast', dotted))}fast: "


def _fast_lines(document: Document, shrink: Mapping[str, Any]) -> list[str]:
    """What is wrong with `fast:` itself, so that it is not found only when used."""
    _, lines = _resolve(_shrunk(document._replace(problems=()), shrink))
    places = tuple(_fast_place(document, dotted) for dotted in shrink)
    return [line for line in lines if line.startswith(places)]


def _with_overrides(document: Document, overrides: Iterable[str]) -> Document:
    for text in overrides:
        dotted, equals, written = text.partition("=")
        if not equals:
            message = f"{text!r} has no value; write path=value"
            document = document.with_problem(Problem((), message, "--set "))
            continue
        try:
            value = read_value(written)
        except ValueError as error:
            message = f"{dotted.strip()}: {error}"
            document = document.with_problem(Problem((), message, "--set "))
            continue
        document = with_setting(document, dotted.strip(), value, "--set ")
    return document
