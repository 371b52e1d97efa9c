"""The schema of quantization and distillation; that of pruning is in `pruning`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from compress.config.base import Model, Sites


class _Grids(Sites):
    weights: Literal["int8", "int4"] | None = Field(
        default="int8", description="Integer grid of the weights."
    )
    activations: Literal["int8", "int8_dynamic"] | None = Field(
        default="int8",
        description="Integer grid of the activations; null leaves them float.",
    )


class Quantize(_Grids):
    """Quantization-aware training; once on, it stays on in every later stage."""

    observer: Literal["absmax", "ema"] = Field(
        default="ema", description="How activation ranges are collected."
    )
    decay: float = Field(
        default=0.99, gt=0, lt=1, description="Decay of the ema observer."
    )
    delay: int = Field(
        default=0, ge=0, description="Steps into the stage before fake-quant starts."
    )
    freeze: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Fraction of the stage that fixes the ranges.",
    )


class Distill(Model):
    """Soft targets from the teacher."""

    temperature: float = Field(
        default=4.0, gt=0, description="Divides both models' logits."
    )
    soft_weight: float = Field(
        default=0.9, ge=0, description="Weight of the teacher's loss."
    )
    hard_weight: float = Field(
        default=0.1, ge=0, description="Weight of the labels' loss."
    )


class PostTraining(_Grids):
    """Post-training quantization, calibrated at export."""

    observer: Literal["absmax", "ema"] = Field(
        default="absmax", description="How activation ranges are collected."
    )
    batches: int = Field(default=8, ge=1, description="Calibration batches.")
