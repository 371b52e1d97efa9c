"""The schema of pruning: single connections, and whole units."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer, PlainValidator

from compress.config.base import Many, Model, Patterns, Sites

SHARES = "global", "normalized", "uniform", "erk"
_NAMED = "unstructured", "channel", "row"
_N_M = re.compile(r"([1-9][0-9]*):([1-9][0-9]*)")

# The scores that look at inputs: pruning with them is done once, between two steps.
FROM_INPUTS = "wanda", "second_order"
# The schedules under which a pruned weight never comes back.
MONOTONE = "one_shot", "cubic", "linear"


class Block(Model):
    """Weights that go or stay together."""

    block: Many[Annotated[int, Field(ge=1)]] = Field(
        min_length=2,
        max_length=2,
        description="Rows and columns of a block in the matrix [output, contracting].",
    )


def is_uniform(prune: Prune) -> bool:
    """Whether a setting makes the same sparsity in every site, whatever its scope."""
    return n_m(prune.pattern) is not None or prune.score in FROM_INPUTS


def n_m(pattern: Any) -> tuple[int, int] | None:
    """The two numbers of an N:M pattern; None of any other."""
    match = _N_M.fullmatch(pattern) if isinstance(pattern, str) else None
    return (int(match[1]), int(match[2])) if match else None


def _as_pattern(value: Any) -> Any:
    if isinstance(value, Block):
        return value
    if isinstance(value, dict) and set(value) == {"block"}:
        sizes = value["block"]
        whole = isinstance(sizes, (list, tuple)) and len(sizes) == 2
        if whole and all(type(size) is int and size >= 1 for size in sizes):
            return Block(block=tuple(sizes))
        raise ValueError("write rows and columns of a block as {block: [4, 4]}")
    if value in _NAMED or n_m(value):
        return value
    raise ValueError(
        f"write one of {', '.join(_NAMED)}, N kept of M as '2:4' in quotes, or "
        "{block: [4, 4]}"
    )


def _as_scope(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, str) and value in SHARES:
        return value
    if isinstance(value, Mapping) and value:
        shares = list(value.values())
        numbers = all(isinstance(x, (int, float)) for x in shares)
        if numbers and all(0 <= x < 1 for x in shares):
            return {str(name): float(x) for name, x in value.items()}
    raise ValueError(
        f"write one of {', '.join(SHARES)}, or a sparsity of at least 0 and below 1 "
        'by pattern: {"blocks/**": 0.8, "head/kernel": 0.5}'
    )


Pattern = Annotated[
    str | Block,
    PlainValidator(
        _as_pattern,
        json_schema_input_type=Literal["unstructured", "channel", "row"]
        | Annotated[str, Field(pattern=f"^{_N_M.pattern}$")]
        | Block,
    ),
    # PlainValidator's own would serialize what it has serialized already.
    PlainSerializer(lambda x: x.model_dump() if isinstance(x, Block) else x),
]
Scope = Annotated[
    str | Mapping[str, float] | None,
    PlainValidator(
        _as_scope,
        json_schema_input_type=Literal["global", "normalized", "uniform", "erk"]
        | dict[str, Annotated[float, Field(ge=0, lt=1)]]
        | None,
    ),
]


class Prune(Sites):
    """Pruning of connections in one stage; the masks hold in every later stage."""

    sparsity: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Fraction of zeros to reach. An N:M pattern says it itself; with a "
        "scope by pattern it is that of the other sites, by default 0.",
    )
    score: Literal[
        "magnitude", "saliency", "movement", "random", "wanda", "second_order"
    ] = Field(
        default="magnitude",
        description="What a weight is worth. wanda and second_order look at inputs: "
        "they prune once, where the stage starts, and need schedule: one_shot.",
    )
    pattern: Pattern = Field(
        default="unstructured",
        description="Which weights go together: unstructured, N:M kept along the "
        "contracting axis as '2:4', {block: [4, 4]}, channel (of the output) or row "
        "(of the contracting axis).",
    )
    scope: Scope = Field(
        default=None,
        description="How the zeros are shared out: ranked over all sites (global), "
        "likewise relative to each site (normalized), the same in each (uniform), "
        "more in larger ones (erk), or a sparsity by pattern. Default global; uniform "
        "for an N:M pattern, wanda and second_order, which know no other.",
    )
    schedule: Literal[
        "one_shot",
        "cubic",
        "linear",
        "periodic",
        "cyclic",
        "straight_through",
        "set",
        "rigl",
    ] = Field(default="cubic", description="How sparsity goes to its target.")
    every: int = Field(
        default=10,
        ge=1,
        description="Steps between mask updates; under cyclic, of a sparse and of a "
        "dense phase.",
    )
    until: float = Field(
        default=0.75,
        gt=0,
        le=1,
        description="Fraction of the stage at which the target is reached, or at which "
        "masks stop changing.",
    )
    regrow: float = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="Fraction of the kept weights that set and rigl exchange at an "
        "update; under rigl it falls to 0.",
    )
    min_kept: int = Field(
        default=1, ge=0, description="Units of the pattern that every layer keeps."
    )
    weights: Literal["int8", "int4"] | None = Field(
        default=None,
        description="Integer grid that second_order rounds to while it prunes; null "
        "leaves the weights float.",
    )
    batches: int = Field(
        default=8,
        ge=1,
        description="Batches of training data that wanda and second_order look at.",
    )


class Budget(Model):
    """What may be left, as a fraction of what there was; one of them."""

    parameters: float | None = Field(
        default=None, gt=0, le=1, description="Of the parameters."
    )
    macs: float | None = Field(
        default=None, gt=0, le=1, description="Of the multiply-accumulates."
    )
    bops: float | None = Field(
        default=None, gt=0, le=1, description="Of the bit operations."
    )
    latency: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Of the measured latency of the exported artifact.",
    )

    @property
    def given(self) -> dict[str, float]:
        """The fractions that are set, by what they count."""
        return {name: x for name, x in self.model_dump().items() if x is not None}


class Shrink(Model):
    """Whole units are masked during one stage and removed where it ends."""

    budget: Budget = Field(description="How much may be left of the model.")
    score: Literal["l1", "l2", "taylor", "activation", "fisher"] = Field(
        default="l2", description="What a unit is worth."
    )
    groups: Patterns = Field(
        default=("**",),
        min_length=1,
        description="Glob pattern, or list of them, of groups of units; see inspect.",
    )
    exclude: Patterns = Field(
        default=(),
        description="Glob pattern, or list of them, of groups to leave whole.",
    )
    normalize: Literal["mean", "none", "isomorphic"] = Field(
        default="mean",
        description="How scores of different groups are made comparable: relative to "
        "the group's mean, as they are, or ranked among groups of one kind only.",
    )
    round_to: int = Field(
        default=8,
        ge=1,
        description="Widths that are kept are multiples of this, or whole.",
    )
    min_units: int = Field(
        default=1, ge=1, description="Fewest units that a group keeps."
    )
    drop_layers: int = Field(
        default=0, ge=0, description="Whole layers of a residual scan to remove."
    )
    schedule: Literal["one_shot", "linear", "cubic"] = Field(
        default="cubic", description="How the masked units grow to the target."
    )
    every: int = Field(default=10, ge=1, description="Steps between mask updates.")
    until: float = Field(
        default=0.75,
        gt=0,
        le=1,
        description="Fraction of the stage at which the budget is met.",
    )
    batches: int = Field(
        default=8,
        ge=1,
        description="Batches of training data that units are scored on for a latency.",
    )
