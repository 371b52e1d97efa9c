"""What contrasts, orders and the techniques of a comparison must agree on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from compress.config.comparison import Row
from compress.config.contrasts import Contrast, margin_problem
from compress.config.errors import Problem, describe
from compress.config.models import Config
from compress.config.names import did_you_mean
from compress.config.ordering import given_in, order_problems
from compress.config.paths import KeyPath


def _contrasts_name_two_rows(config: Config) -> Iterator[Problem]:
    names = [row.name for row in config.compare.rows] if config.compare else []
    for path, contrast in _contrasts(config):
        for found in (contrast.row, contrast.other):
            if found not in names:
                message = f"no row is called {found!r}; {did_you_mean(found, names)}"
                yield Problem(path, message)
        if contrast.row == contrast.other:
            message = f"compares {contrast.row!r} with itself; name another row"
            yield Problem(path, message)


def _margins_go_with_their_relations(config: Config) -> Iterator[Problem]:
    for path, contrast in _contrasts(config):
        message = margin_problem(contrast)
        if message:
            yield Problem(path, message)


def _contrasts_are_unique(config: Config) -> Iterator[Problem]:
    """Each is one test of those that are corrected for their number."""
    seen: set[tuple[str, ...]] = set()
    for path, contrast in _contrasts(config):
        pair = [contrast.row, contrast.other]
        directed = contrast.relation in (">", ">=")
        key = (contrast.relation, *(pair if directed else sorted(pair)))
        if key in seen:
            message = f"{describe(contrast.text)} is there twice; remove one"
            yield Problem(path, message)
        seen.add(key)


def _letters_are_capital_letters(config: Config) -> Iterator[Problem]:
    for letter in config.compare.techniques if config.compare else ():
        if not re.fullmatch("[A-Z]", letter):
            message = "orders are written in capital letters; use one, like P"
            yield Problem(("compare", "techniques", letter), message)


def _objectives_are_stages(config: Config) -> Iterator[Problem]:
    names = [stage.name for stage in config.stages]
    objectives = config.compare.objectives if config.compare else ()
    for index, found in enumerate(objectives):
        path, before = ("compare", "objectives", index), objectives[:index]
        if found not in names:
            message = f"no stage is called {found!r}; {did_you_mean(found, names)}"
            yield Problem(path, message)
        elif found in before:
            yield Problem(path, f"{found!r} is there twice; name each stage once")
        elif set(names[names.index(found) :]) & set(before):
            message = f"{found!r} runs before a stage named earlier; keep their order"
            yield Problem(path, message)


def _orders_are_of_techniques(config: Config) -> Iterator[Problem]:
    given = given_in(config.model_dump(mode="json"))
    if config.compare and config.compare.orders and given:
        row = Row(name="orders", order=config.compare.orders)
        yield from order_problems(given, row, ("compare", "orders"))


CHECKS: tuple[Callable[[Config], Iterator[Problem]], ...] = (
    _orders_are_of_techniques,
    _contrasts_name_two_rows,
    _margins_go_with_their_relations,
    _contrasts_are_unique,
    _letters_are_capital_letters,
    _objectives_are_stages,
)


def _contrasts(config: Config) -> Iterator[tuple[KeyPath, Contrast]]:
    contrasts = config.compare.contrasts if config.compare else ()
    for index, contrast in enumerate(contrasts):
        yield ("compare", "contrasts", index), contrast
