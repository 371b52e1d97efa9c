"""The schema of a run: strict, frozen models.

A model checks one value at a time; what two values must agree on is in `checks`.
Use `parse_config` or `load_config`, which run both and say where a problem is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from compress.config.base import Many, Model, Name, Scalar
from compress.config.comparison import Compare
from compress.config.mesh import Mesh, Sharding
from compress.config.pruning import Prune, Shrink
from compress.config.sweep import Sweep
from compress.config.techniques import Distill, PostTraining, Quantize

Platform = Literal["cpu", "cuda", "tpu"]

RematPolicy = Literal[
    "nothing_saveable",
    "dots_saveable",
    "dots_with_no_batch_dims_saveable",
    "everything_saveable",
]

_DOTTED = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"


def _as_learning_rate(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return {"schedule": "constant", "peak": value}
    if isinstance(value, (dict, LearningRate)):
        return value
    raise ValueError("write a number above 0, or a mapping with schedule and peak")


class LearningRate(Model):
    """A learning rate over the steps of one stage; a plain number is `constant`."""

    schedule: Literal["constant", "cosine", "linear"] = Field(
        description="Shape from the peak to the end of the stage."
    )
    peak: float = Field(gt=0, description="Highest value, reached after the warmup.")
    end: float = Field(
        default=0.0, ge=0, description="Value at the last step of cosine and linear."
    )
    warmup: int = Field(
        default=0, ge=0, description="Steps of linear growth from 0 to the peak."
    )


Rate = Annotated[
    LearningRate,
    BeforeValidator(
        _as_learning_rate,
        json_schema_input_type=Annotated[float, Field(gt=0)] | LearningRate,
    ),
]


class Optimizer(Model):
    """The optimizer of the student and of the teacher."""

    name: Literal["adam", "adamw", "sgd"] = Field(
        default="adam", description="Which optax optimizer."
    )
    weight_decay: float = Field(
        default=0.0,
        ge=0,
        description="Weight decay: decoupled for adamw, an L2 gradient for the others.",
    )
    momentum: float = Field(
        default=0.9,
        ge=0,
        lt=1,
        description="Momentum of sgd; first-moment decay of adam.",
    )
    clip_norm: float | None = Field(
        default=None,
        gt=0,
        description="Largest global gradient norm; null does not clip.",
    )


class Teacher(Model):
    """The model that distillation learns from, trained before the first stage."""

    model: Mapping[str, Scalar] = Field(
        description="Keyword arguments for the task's model."
    )
    steps: int = Field(ge=1, description="Training steps of the teacher.")
    learning_rate: Rate = Field(
        description="A number, or a schedule over the teacher's steps."
    )


class Stage(Model):
    """A number of steps with one setting of every technique."""

    name: Name = Field(description="Name in logs and reports; default stage0, ...")
    steps: int = Field(ge=1, description="Optimizer updates in this stage.")
    learning_rate: Rate = Field(
        description="A number, or a schedule over this stage's steps."
    )
    prune: Prune | None = Field(default=None, description="Pruning in this stage.")
    shrink: Shrink | None = Field(
        default=None,
        description="Units masked in this stage and removed at its end; what follows "
        "trains a smaller network.",
    )
    quantize: Quantize | None = Field(
        default=None, description="QAT from this stage on."
    )
    distill: Distill | None = Field(
        default=None, description="Distillation in this stage."
    )


class Export(Model):
    """What is shipped and how closely it must agree with the trained model."""

    quantize: PostTraining | None = Field(
        default=None, description="Post-training quantization."
    )
    platforms: Many[Platform] = Field(
        default=("cpu", "cuda", "tpu"),
        min_length=1,
        description="Platforms the artifact is lowered for.",
    )
    static_batch: int = Field(
        default=1, ge=1, description="Batch size of the fixed-shape program."
    )
    lowering: Literal["fastest", "measured", "plain"] = Field(
        default="fastest",
        description="How integers are multiplied, in numbers always the same: by rules "
        "known to be fast, by what is fastest on this machine, or as in the model.",
    )
    tolerance: float = Field(
        default=1e-3,
        gt=0,
        description="Largest |artifact - trained forward| relative to the largest "
        "|output|.",
    )


class Config(Model):
    """One run, or a comparison of several, as its file declares it."""

    name: Name | None = Field(
        default=None,
        description="Name of the run; default the file's name without suffix.",
    )
    task: str = Field(
        pattern=f"^{_DOTTED}:{_DOTTED}$",
        examples=["package.module:attribute"],
        description="Where the model, data and metrics are: package.module:attribute.",
    )
    data: Mapping[str, Scalar] = Field(
        default_factory=dict, description="Keyword arguments of the task's function."
    )
    model: Mapping[str, Scalar] = Field(
        default_factory=dict, description="Keyword arguments for the task's model."
    )
    teacher: Teacher | None = Field(default=None, description="Needed by distillation.")
    batch_size: int = Field(ge=1, description="Examples per step.")
    accumulate: int = Field(
        default=1,
        ge=1,
        description="Parts a batch is computed in, one after the other, for less "
        "memory; their gradients are averaged.",
    )
    compute: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="What student and teacher compute in; parameters stay float32.",
    )
    remat: RematPolicy | None = Field(
        default=None,
        description="What is kept for the backward pass, as jax.checkpoint_policies "
        "calls it; the rest is computed again. null keeps what JAX keeps.",
    )
    optimizer: Optimizer = Field(
        default_factory=Optimizer, description="Optimizer of student and teacher."
    )
    stages: Many[Stage] = Field(min_length=1, description="What runs, in order.")
    export: Export = Field(default_factory=Export, description="What is shipped.")
    seeds: Many[Annotated[int, Field(ge=0)]] = Field(
        default=(0,),
        min_length=1,
        description="One run per seed; each may appear once.",
        json_schema_extra={"uniqueItems": True},
    )
    vmap_seeds: int = Field(
        default=1,
        ge=1,
        description="At most so many runs are trained in one compiled program: seeds "
        "of a row, and rows that differ only in learning rates, sparsity, bit width of "
        "the weights, and temperature and weights of distillation.",
    )
    log_every: int = Field(
        default=50, ge=1, description="Steps per compiled chunk and per log line."
    )
    checkpoint_every: int = Field(
        default=200, ge=1, description="Steps between checkpoints."
    )
    keep_checkpoints: int = Field(
        default=2, ge=1, description="Newest checkpoints kept."
    )
    keep_best: int = Field(
        default=0,
        ge=0,
        description="Further checkpoints kept: those of the current stage with the "
        "best evaluation score.",
    )
    mesh: Mesh | None = Field(
        default=None,
        description="Devices by axis, `{data: 4, model: 2}`: all there are, over all "
        "processes; null uses one.",
    )
    sharding: Sharding = Field(
        default_factory=Sharding, description="What of a model is split over the mesh."
    )
    compare: Compare | None = Field(default=None, description="Runs to compare.")
    sweep: Sweep | None = Field(default=None, description="Runs of a sweep.")

    @model_validator(mode="before")
    @classmethod
    def _fill_stage_names(cls, value: Any) -> Any:
        stages = value.get("stages") if isinstance(value, dict) else None
        if not isinstance(stages, (list, tuple)):
            return value
        return {**value, "stages": [_named(*item) for item in enumerate(stages)]}


def _named(index: int, stage: Any) -> Any:
    if not isinstance(stage, dict) or stage.get("name") is not None:
        return stage
    return {**stage, "name": f"stage{index}"}
