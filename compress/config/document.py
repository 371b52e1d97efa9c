"""A config before validation: plain values, and where each was written."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from compress.config.errors import Problem, describe
from compress.config.fields import unknown_key
from compress.config.paths import KeyPath, parse_path, path_text


class Document(NamedTuple):
    """Values and their places; never changed, only replaced.

    Attributes:
      source: What to call the whole: the file's name.
      tree: Mappings, lists and scalars.
      places: For the paths that were written somewhere, the text that goes before
        an error about them, such as `"run.yaml:4: "` or `"--set "`.
      problems: What was wrong already while reading.
    """

    source: str
    tree: dict[str, Any]
    places: Mapping[KeyPath, str]
    problems: tuple[Problem, ...] = ()

    def place(self, path: KeyPath) -> str:
        """Where `path`, or the nearest mapping or list around it, was written."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return ""

    def line(self, problem: Problem) -> str:
        """A problem as one line with its place."""
        return problem.line(self.place(problem.path))

    def with_problem(self, problem: Problem) -> Document:
        """The same with one more problem."""
        return self._replace(problems=(*self.problems, problem))


def merge(below: Document, above: Document) -> Document:
    """Lays `above` over `below`: mappings merge key by key, all else is replaced."""
    places = dict(below.places)
    tree = _merge(below.tree, above.tree, (), places)
    return Document(
        source=above.source,
        tree=tree,
        places={**places, **above.places},
        problems=below.problems + above.problems,
    )


def with_setting(document: Document, dotted: str, value: Any, place: str) -> Document:
    """Sets one value by its path, or adds a problem that says why it cannot.

    Args:
      document: What to change.
      dotted: The path as text; mappings missing on the way are made.
      value: The new value.
      place: Text for errors about it, as in `Document.places`.
    """
    try:
        path = parse_path(dotted)
    except ValueError as error:
        return document.with_problem(Problem((), str(error), place))
    obstacle = _obstacle(document.tree, path, place)
    if obstacle:
        return document.with_problem(obstacle)
    places = dict(document.places)
    _forget(path, places)
    for length in range(1, len(path)):
        places.setdefault(path[:length], place)
    places[path] = place
    tree = copy.deepcopy(document.tree)
    _put(tree, path, value)
    return document._replace(tree=tree, places=places)


def _merge(
    below: dict[str, Any],
    above: dict[str, Any],
    path: KeyPath,
    places: dict[KeyPath, str],
) -> dict[str, Any]:
    """Merges two mappings; `places` loses those of what `above` replaces."""
    merged = dict(below)
    for key, value in above.items():
        here = (*path, key)
        old = below.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merge(old, value, here, places)
        else:
            _forget(here, places)
            merged[key] = value
    return merged


def _forget(path: KeyPath, places: dict[KeyPath, str]) -> None:
    for known in [known for known in places if known[: len(path)] == path]:
        del places[known]


def _obstacle(tree: dict[str, Any], path: KeyPath, place: str) -> Problem | None:
    """Why `path` cannot be set, if so."""
    node: Any = tree
    for depth, step in enumerate(path):
        here, reached = path[:depth], path[: depth + 1]
        message = unknown_key(reached)
        if message:
            return Problem(reached, message, place)
        message = _no_step(node, step, path_text(here))
        if message:
            return Problem(reached, message, place)
        node = _below(node, step)
    return None


def _below(node: Any, step: str | int) -> Any:
    """The value one step down; None where there is nothing yet."""
    if isinstance(node, dict):
        return node.get(step)
    return node[step] if isinstance(node, list) and isinstance(step, int) else None


def _no_step(node: Any, step: str | int, name: str) -> str | None:
    """Why there is no `step` from the value `node` called `name`, if so."""
    if isinstance(step, int):
        if node is None:
            return f"{name} is not given yet; set it whole: {name}=[...]"
        if not isinstance(node, list):
            return f"{name} is {describe(node)}, which has no items; set it whole"
        if step < len(node):
            return None
        return f"no such item: there are {len(node)}, and the first is {name}[0]"
    if node is None or isinstance(node, dict):
        return None
    if isinstance(node, list):
        return f"{name} is {describe(node)}; say which, like {name}[0].{step}"
    return f"{name} is {describe(node)}, not a mapping; set it whole: {name}={{...}}"


def _put(tree: dict[str, Any], path: KeyPath, value: Any) -> None:
    node: Any = tree
    for step in path[:-1]:
        if isinstance(node, dict) and node.get(step) is None:
            node[step] = {}
        node = node[step]
    node[path[-1]] = copy.deepcopy(value)
