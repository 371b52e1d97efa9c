"""A comparison's rows: each is the config with only some techniques."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError

from compress.config.comparison import Row, rows_of_orders
from compress.config.document import Document, with_setting
from compress.config.errors import ConfigError, Problem, describe
from compress.config.models import Config
from compress.config.ordering import (
    arranged,
    given_in,
    order_problems,
    techniques_of,
)
from compress.config.orders import IN_STAGES
from compress.config.paths import KeyPath
from compress.config.validation import check

_ORDERS = ("compare", "orders")
_DECIDED_BY_THE_ROW = ("name", "compare")


def row_config(config: Config, row: Row) -> Config:
    """The config of one row's run.

    Techniques not in `row.use` are removed, only the first `row.stages` stages are
    kept, then `row.set` is applied.

    Raises:
      ConfigError: If the row asks for what the config does not declare.
    """
    document = Document(f"row {row.name!r}", config.model_dump(mode="json"), {})
    result, problems = _resolve(document, row, ())
    if problems or result is None:
        raise ConfigError(document.source, [problem.line("") for problem in problems])
    return result


def row_problems(document: Document, known: list[Problem]) -> Iterator[Problem]:
    """What is wrong in the rows of a document, beyond what is wrong without them."""
    old = {(problem.path, problem.message) for problem in known}
    said: set[tuple[str | None, str]] = set()
    for where, row in _rows(document.tree):
        for problem in _resolve(document._replace(problems=()), row, where)[1]:
            # The rows that `orders` adds share their settings, and their problems.
            again = where == _ORDERS and (problem.place, problem.message) in said
            said.add((problem.place, problem.message))
            if (problem.path, problem.message) not in old and not again:
                yield problem._replace(message=f"row {row.name!r}: {problem.message}")


def _rows(tree: dict[str, Any]) -> Iterator[tuple[KeyPath, Row]]:
    """The rows that can be read; the others are reported by their models."""
    compare, given = tree.get("compare"), given_in(tree)
    rows = compare.get("rows") if isinstance(compare, dict) else None
    for index, value in enumerate(rows if isinstance(rows, list) else ()):
        try:
            yield ("compare", "rows", index), Row.model_validate(value)
        except ValidationError:
            continue
    for value in rows_of_orders(compare) if isinstance(compare, dict) else ():
        row = Row.model_validate(value)
        # Else `orders` itself is wrong, which is reported once.
        if given and not any(order_problems(given, row, ())):
            yield _ORDERS, row


def _resolve(
    document: Document, row: Row, where: KeyPath
) -> tuple[Config | None, list[Problem]]:
    """One row's config, and its problems; `where` is the row's own path."""
    problems = [*_bad_use(row, where), *_bad_stages(document.tree, row, where)]
    given = None if row.order is None else given_in(document.tree)
    if given is not None:
        problems += order_problems(given, row, (*where, "order"))
    if problems or (row.order is not None and given is None):
        return None, problems
    asked = document if given is None else _without(document, IN_STAGES)
    if given is not None:
        row = row.model_copy(update={"use": row.use + techniques_of(given, row)})
        asked = arranged(asked, given, row)
    resolved = _with_settings(_reduced(asked, row), document, row, where)
    tree = {**resolved.tree, "name": row.name, "compare": None}
    problems = [*resolved.problems, *_mismatch(tree, row, where)]
    if problems:
        return None, problems
    config, found = check(resolved._replace(tree=tree))
    # Placed here: the row's document is gone when the problem is printed.
    return config, [
        problem._replace(place=problem.place or resolved.place(problem.path))
        for problem in found
    ]


def _bad_use(row: Row, where: KeyPath) -> Iterator[Problem]:
    if {"quantize", "ptq"} <= set(row.use):
        message = "both 'quantize' and 'ptq' decide the ranges; use one of the two"
        yield Problem((*where, "use"), message)
    if row.order is not None and set(row.use) - {"ptq"}:
        message = "order says which techniques there are; only ptq may be used with it"
        yield Problem((*where, "use"), message)


def _bad_stages(tree: dict[str, Any], row: Row, where: KeyPath) -> Iterator[Problem]:
    count = len(tree["stages"]) if isinstance(tree.get("stages"), list) else None
    if row.stages is not None and count is not None and row.stages > count:
        message = f"found {row.stages}, but the config has {count}; give that or less"
        yield Problem((*where, "stages"), message)
    if row.stages is not None and row.order is not None:
        message = "rows with an order have equal budgets: all stages; remove this"
        yield Problem((*where, "stages"), message)


def _reduced(document: Document, row: Row) -> Document:
    """Drops the techniques and stages that the row does not run."""
    unused = [technique for technique in IN_STAGES if technique not in row.use]
    tree = _without(document, unused).tree
    if isinstance(tree.get("stages"), list):
        tree["stages"] = tree["stages"][: row.stages]
    if "ptq" not in row.use:
        for export in _mappings([tree.get("export")]):
            export.pop("quantize", None)
    if "distill" not in row.use:
        tree.pop("teacher", None)
    return document._replace(tree=tree)


def _without(document: Document, techniques: Iterable[str]) -> Document:
    """A copy whose stages lack some techniques."""
    tree = copy.deepcopy(document.tree)
    for stage in _mappings(tree.get("stages")):
        for technique in techniques:
            stage.pop(technique, None)
    return document._replace(tree=tree)


def _with_settings(
    reduced: Document, document: Document, row: Row, where: KeyPath
) -> Document:
    for dotted, value in row.set.items():
        path = (*where, "set", dotted)
        place = document.place(path)
        if dotted in _DECIDED_BY_THE_ROW:
            message = "a row decides this itself; remove it from set"
            reduced = reduced.with_problem(Problem((dotted,), message, place))
        else:
            reduced = with_setting(reduced, dotted, value, place)
    return reduced


def _mismatch(tree: dict[str, Any], row: Row, where: KeyPath) -> Iterator[Problem]:
    """Techniques asked for and not declared, or the other way round."""
    declared = declared_techniques(tree)
    for technique in dict.fromkeys(row.use):
        if technique not in declared:
            message = f"uses {describe(technique)}, which {_nobody(technique, row)}"
            yield Problem((*where, "use"), message)
    for technique in declared:
        if technique not in row.use:
            message = f"set declares {technique}; add {technique} to use, or unset it"
            yield Problem((*where, "use"), message)


def _nobody(technique: str, row: Row) -> str:
    if technique == "ptq":
        return "nothing declares; add export.quantize, or leave ptq out"
    kept = f"none of the first {row.stages} stages" if row.stages else "no stage"
    return f"{kept} declares; add {technique} to a stage, or leave it out"


def declared_techniques(tree: dict[str, Any]) -> list[str]:
    """The techniques that the values of a config ask for."""
    stages = _mappings(tree.get("stages"))
    exports = _mappings([tree.get("export")])
    declared = [
        name
        for name in IN_STAGES
        if any(stage.get(name) is not None for stage in stages)
    ]
    if any(export.get("quantize") is not None for export in exports):
        declared.append("ptq")
    return declared


def _mappings(values: Any) -> list[dict[str, Any]]:
    """The mappings among values that may not have been validated yet."""
    items = values if isinstance(values, list) else ()
    return [item for item in items if isinstance(item, dict)]
