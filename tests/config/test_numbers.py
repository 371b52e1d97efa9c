"""Which configs share a compiled train step."""

from typing import Any

import pytest

from compress.config import numbers_of, parse_config, program_hash, with_numbers
from tests import tiny


def config_of(*changes: tuple[str, Any]) -> Any:
    """The tiny config with keys like `1.prune.every` changed in its stages."""
    stages = [{**stage} for stage in tiny.CONFIG["stages"]]
    for path, value in changes:
        index, section, *name = path.split(".")
        stage = stages[int(index)]
        stage[section] = {**stage[section], name[0]: value} if name else value
    return parse_config({**tiny.CONFIG, "stages": stages})


CONFIG = config_of()


@pytest.mark.parametrize(
    "change",
    [
        ("0.learning_rate", 0.02),
        ("1.distill.temperature", 3),
        ("1.distill.soft_weight", 0.5),
        ("1.distill.hard_weight", 0.0),
        ("1.prune.sparsity", 0.0),
        ("2.quantize.weights", "int4"),
    ],
)
def test_numbers_do_not_make_another_program(change: Any) -> None:
    other = config_of(change)
    assert numbers_of(other) != numbers_of(CONFIG)
    assert program_hash(other) == program_hash(CONFIG)
    assert with_numbers(CONFIG, numbers_of(other)) == other


@pytest.mark.parametrize(
    "change",
    [
        ("1.steps", 21),
        ("0.learning_rate", {"schedule": "linear", "peak": 0.01}),
        ("0.learning_rate", {"schedule": "constant", "peak": 0.01, "warmup": 2}),
        ("1.prune.every", 5),
        ("1.prune.schedule", "linear"),
        ("1.prune.scope", "uniform"),
        ("1.prune.pattern", "channel"),
        ("1.prune.score", "movement"),
        ("2.quantize", {"activations": "int8_dynamic"}),
        ("1.distill", None),
    ],
)
def test_anything_else_does(change: Any) -> None:
    assert program_hash(config_of(change)) != program_hash(CONFIG)


def test_stages_that_distill_alike_are_another_program_than_those_that_do_not() -> None:
    same, other = (
        config_of(("2.distill", {"temperature": t})) for t in (2, 4)
    )  # the stage before has 2
    assert program_hash(same) != program_hash(other)
    third = config_of(("2.distill", {"temperature": 5}))
    assert program_hash(other) == program_hash(third)


def test_a_name_or_a_pace_of_logging_makes_no_other_program() -> None:
    other = CONFIG.model_copy(update={"name": "x", "log_every": 3, "vmap_seeds": 4})
    assert program_hash(other) == program_hash(CONFIG)
