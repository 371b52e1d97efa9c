"""The schema of a comparison: rows, what they are made of, what is claimed of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from compress.config.base import Many, Model, Name
from compress.config.contrasts import AnyContrast
from compress.config.latency import Latency
from compress.config.orders import (
    Letters,
    Objective,
    Order,
    all_orders,
    are_letters,
    parse_order,
)

Technique = Literal["prune", "shrink", "quantize", "distill", "ptq"]

# What the row of the empty order is called.
_PLAIN = "baseline + budget"


class Row(Model):
    """One run of a comparison: the config with only some of its techniques."""

    name: Name = Field(
        description="Name of the run and of its row in the table; default the order."
    )
    use: Many[Technique] = Field(default=(), description="Techniques that stay on.")
    order: Order | None = Field(
        default=None,
        description="Letters of compare.techniques, one for each stage in turn: PQD. "
        "(PQ)D puts two into one stage, '.' leaves a stage plain. Instead of use.",
    )
    stages: int | None = Field(
        default=None,
        ge=1,
        description="Run only the first this many stages; null runs all.",
    )
    set: Mapping[str, Any] = Field(
        default_factory=dict,
        description="Further values for this run, by path: "
        "`stages[0].steps: 100`; applied last.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_name(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("name") is None and "order" in value:
            return {**value, "name": value["order"] or _PLAIN}
        return value


class Compare(Model):
    """Several runs of one config, side by side."""

    rows: Many[Row] = Field(min_length=1, description="The runs, in table order.")
    reference: Name = Field(
        description="Row the others are compared with; default the first."
    )
    techniques: Mapping[str, Objective] = Field(
        default_factory=dict,
        description="What the letters of orders stand for: a capital letter each.",
    )
    objectives: Many[Name] = Field(
        default=(),
        description="Names of the stages that take the letters of an order, in turn; "
        "default all stages.",
    )
    orders: Letters | None = Field(
        default=None,
        description="Adds a row for each subset of these letters in each order, and "
        "one with all of them in one stage, unless rows has it.",
    )
    contrasts: Many[AnyContrast] = Field(
        default=(),
        description="What the report tests, chosen before the run: 'A - B', or as a "
        "claim 'A > B', or with a margin {claim: 'A = B', margin: 0.5}.",
    )
    latency: Latency = Field(
        default_factory=Latency, description="How the artifacts are timed."
    )

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        rows = value.get("rows")
        if rows is None or isinstance(rows, (list, tuple)):
            value = {**value, "rows": [*(rows or ()), *rows_of_orders(value)]}
        return _with_reference(value)


def rows_of_orders(compare: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows that `orders` adds to those that are declared; none if it is wrong."""
    letters, rows = compare.get("orders"), compare.get("rows") or ()
    if not are_letters(letters):
        return []
    declared = [row for row in rows if isinstance(row, dict) and is_order_alone(row)]
    there = {row["order"] for row in declared}
    added = [order for order in all_orders(letters) if order not in there]
    return [{"name": order or _PLAIN, "order": order} for order in added]


def is_order_alone(row: Mapping[str, Any]) -> bool:
    """Whether a row is declared by its order, without settings of its own."""
    others = ("use", "stages", "set")
    return isinstance(row.get("order"), str) and not any(map(row.get, others))


def factorial_design(compare: Compare) -> dict[str, tuple[str, ...]]:
    """By row of the full factorial design, the letters it has.

    These are the rows with a stage for each letter, declared by their order alone, and
    a row that uses nothing at all. Letters come in the order of `techniques`.
    """
    letters = {row.name: _letters_of(row) for row in compare.rows}
    return {
        name: tuple(letter for letter in compare.techniques if letter in has)
        for name, has in letters.items()
        if has is not None
    }


def factors_of(compare: Compare) -> tuple[str, ...]:
    """The letters that any row of the full factorial design has."""
    there = {letter for has in factorial_design(compare).values() for letter in has}
    return tuple(letter for letter in compare.techniques if letter in there)


def _letters_of(row: Row) -> Sequence[str] | None:
    if row.use or row.stages or row.set:
        return None
    stages = parse_order(row.order or "")
    return "".join(stages) if max(map(len, stages), default=0) < 2 else None


def _with_reference(value: dict[str, Any]) -> dict[str, Any]:
    if value.get("reference") is not None:
        return value
    rows = value.get("rows")
    first = rows[0] if isinstance(rows, (list, tuple)) and rows else None
    name = first.get("name") if isinstance(first, dict) else None
    # A first row without a name is a problem of its own; this is not another.
    return {**value, "reference": name if isinstance(name, str) and name else "?"}
