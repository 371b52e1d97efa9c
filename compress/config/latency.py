"""How the latency of a comparison's artifacts is measured."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from compress.config.base import Many, Model


class Latency(Model):
    """Large models need fewer and smaller batches, or the timing takes an hour."""

    batches: Many[Annotated[int, Field(ge=1)]] = Field(
        default=(1, 64),
        min_length=1,
        description="Batch sizes; each may appear once.",
        json_schema_extra={"uniqueItems": True},
    )
    repetitions: int = Field(
        default=50,
        ge=10,
        description="Rounds, each of which times every row once, in random order.",
    )

    @field_validator("batches")
    @classmethod
    def _are_unique(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(sizes)) < len(sizes):
            raise ValueError("a batch size is there twice; list each once")
        return sizes
