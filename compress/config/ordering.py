"""What the order of a row makes of a config's stages."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from compress.config.comparison import Row
from compress.config.document import Document
from compress.config.errors import Problem, describe
from compress.config.names import did_you_mean
from compress.config.orders import Objective, parse_order
from compress.config.paths import KeyPath

_LETTERS: TypeAdapter[dict[str, Objective]] = TypeAdapter(dict[str, Objective])


class Given(NamedTuple):
    """What orders are read with, from a document that may not be validated yet.

    Attributes:
      techniques: By letter.
      stages: Names of all stages.
      objectives: Names of those that take the letters, in turn.
    """

    techniques: Mapping[str, Objective]
    stages: list[str]
    objectives: list[str]


def given_in(tree: Mapping[str, Any]) -> Given | None:
    """What a document gives; None if some of it is wrong in itself."""
    compare, stages = tree.get("compare"), tree.get("stages")
    if not isinstance(compare, dict) or not isinstance(stages, list):
        return None
    try:
        techniques = _LETTERS.validate_python(compare.get("techniques") or {})
    except ValidationError:
        return None
    named = [stage.get("name") if isinstance(stage, dict) else None for stage in stages]
    names = [str(name or f"stage{index}") for index, name in enumerate(named)]
    objectives = compare.get("objectives") or names
    if not isinstance(objectives, (list, tuple)) or not set(objectives) <= set(names):
        return None
    return Given(techniques, names, list(objectives))


def order_problems(given: Given, row: Row, path: KeyPath) -> Iterator[Problem]:
    """Why a row's order has no meaning here, if so; `path` is the order's own."""
    stages = parse_order(row.order or "")
    for letter in dict.fromkeys("".join(stages)):
        if letter not in given.techniques:
            known = did_you_mean(letter, given.techniques)
            message = f"{letter} is not in compare.techniques; {known}, or declare it"
            yield Problem(path, message)
    if len(stages) > len(given.objectives):
        message = (
            f"{describe(row.order)} takes {len(stages)} stages, but there are "
            f"{len(given.objectives)}: {', '.join(given.objectives)}; add stages, or "
            "name them in compare.objectives"
        )
        yield Problem(path, message)
    for letters in stages:
        yield from _same_technique(letters, given, path)


def _same_technique(letters: str, given: Given, path: KeyPath) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for letter in letters:
        if letter not in given.techniques:
            continue
        technique = given.techniques[letter].technique
        if technique in first:
            message = (
                f"{first[technique]} and {letter} are both {technique}, and a stage "
                "has one; give each a stage"
            )
            yield Problem(path, message)
        first.setdefault(technique, letter)


def techniques_of(given: Given, row: Row) -> tuple[str, ...]:
    """The techniques of a row's order."""
    letters = "".join(parse_order(row.order or ""))
    return tuple(given.techniques[letter].technique for letter in letters)


def arranged(document: Document, given: Given, row: Row) -> Document:
    """The document with each letter's settings in the stages where it acts.

    Fake-quant and what stays are in every later stage too: fake-quant so that ranges
    follow what later stages do to the activations, and are frozen in the last one.
    Masks hold without being repeated.
    """
    tree, places = copy.deepcopy(document.tree), dict(document.places)
    letters_of = dict(zip(given.objectives, parse_order(row.order or "")))
    going_on = ""
    for index, name in enumerate(given.stages):
        here = letters_of.get(name, "")
        for letter in going_on + here:
            technique = given.techniques[letter].technique
            source = ("compare", "techniques", letter, technique)
            settings = document.tree["compare"]["techniques"][letter][technique]
            tree["stages"][index][technique] = copy.deepcopy(settings)
            places |= _moved(document, source, ("stages", index, technique))
        going_on += "".join(a for a in here if given.techniques[a].goes_on)
    return document._replace(tree=tree, places=places)


def _moved(document: Document, old: KeyPath, new: KeyPath) -> dict[KeyPath, str]:
    """Where the values below a path were written, now that they are copied."""
    below = {
        (*new, *path[len(old) :]): place
        for path, place in document.places.items()
        if path[: len(old)] == old
    }
    return {new: document.place(old), **below}
