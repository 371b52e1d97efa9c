"""Settings of pruning: what each may be, and what they must agree on."""

import pytest

from compress.config import Block, ConfigError, config_hash, parse_config
from compress.config.pruning import n_m


def config_of(*stages, **more):
    filled = [{"steps": 10, "learning_rate": 0.1, **stage} for stage in stages]
    return parse_config({"task": "a:b", "batch_size": 1, "stages": filled, **more})


def problem(*stages, **more):
    with pytest.raises(ConfigError) as caught:
        config_of(*stages, **more)
    (line,) = caught.value.problems
    return line


def prune(**settings):
    return {"prune": settings}


def shrink(**settings):
    return {"shrink": {"budget": {"macs": 0.5}, **settings}}


@pytest.mark.parametrize(
    "settings",
    [
        {"pattern": "2:4"},
        {"pattern": "1:4", "sparsity": 0.75, "scope": "uniform"},
        {"pattern": {"block": [4, 1]}, "sparsity": 0.5},
        {"pattern": "channel", "sparsity": 0.5, "scope": "normalized"},
        {"scope": {"head/*": 0.5, "**": 0}, "schedule": "rigl"},
        {"score": "second_order", "schedule": "one_shot", "sparsity": 0.5}
        | {"weights": "int4"},
    ],
)
def test_a_setting_survives_saving_and_reading_back(settings):
    config = config_of(prune(**settings))
    again = parse_config(config.model_dump(mode="json"))
    assert again == config
    assert config_hash(again) == config_hash(config)


def test_patterns_are_read_as_what_they_mean():
    assert n_m("2:4") == (2, 4)
    assert n_m("unstructured") is None
    pattern = config_of(prune(pattern={"block": [2, 3]}, sparsity=0.5)).stages[0].prune
    assert pattern.pattern == Block(block=(2, 3))
    assert config_of(shrink()).stages[0].shrink.budget.given == {"macs": 0.5}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"pattern": "4:4"}, "prune.pattern: found '4:4', which keeps 4 of every 4"),
        ({"pattern": "4:2"}, "N must be below M"),
        ({"pattern": "2/4"}, "found '2/4'; write one of unstructured, channel, row"),
        ({"pattern": "0:4"}, "found '0:4'; write one of"),
        ({"pattern": {"block": [4]}}, "write rows and columns of a block"),
        ({"pattern": {"blok": [4, 4]}}, "or {block: [4, 4]}"),
        ({"pattern": "2:4", "sparsity": 0.8}, "but pattern '2:4' makes 0.5"),
        ({"pattern": "2:4", "scope": "erk"}, "the same sparsity everywhere"),
        ({}, "stages[0].prune.sparsity: this key is missing; add it."),
        ({"sparsity": 0.5, "scope": "local"}, "write one of global, normalized"),
        ({"sparsity": 0.5, "scope": {"a": 1.0}}, "at least 0 and below 1"),
        ({"sparsity": 0.5, "score": "wanda"}, "write schedule: one_shot"),
        (
            {"sparsity": 0.5, "score": "wanda", "schedule": "one_shot"}
            | {"scope": "global"},
            "score wanda makes the same sparsity everywhere",
        ),
        (
            {"sparsity": 0.5, "score": "wanda", "schedule": "one_shot"}
            | {"pattern": "channel"},
            "knows single weights and N:M only",
        ),
        ({"sparsity": 0.5, "weights": "int8"}, "only score second_order rounds"),
        ({"sparsity": 0.5, "score": "magnitud"}, "use 'magnitude', 'saliency'"),
        ({"sparsity": 0.5, "regorw": 0.3}, "did you mean 'regrow'?"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(settings, expected):
    assert expected in problem(prune(**settings))


def test_only_ramps_must_rise_and_may_go_on():
    cubic = {"sparsity": 0.8}
    assert "below the 0.8 of stages[0]" in problem(prune(**cubic), prune(sparsity=0.5))
    assert "below the 0.8" in problem(
        prune(**cubic), prune(sparsity=0.5, schedule="linear")
    )
    rigl = {"sparsity": 0.8, "schedule": "rigl"}
    assert "schedule rigl acts in one stage" in problem(prune(**rigl), prune(**rigl))
    once = {"sparsity": 0.5, "score": "wanda", "schedule": "one_shot"}
    assert "score wanda acts in one stage" in problem(prune(**once), prune(**once))
    assert "must be the same in all stages" in problem(
        prune(**cubic), prune(**cubic, score="movement")
    )


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ([shrink(budget={})], "shrink.budget: found none; give one of parameters"),
        ([shrink(budget={"macs": 0.5, "bops": 0.5})], "found macs, bops; give one"),
        ([shrink(budget={"macs": 0})], "budget.macs: found 0; must be above 0"),
        ([shrink(budget={"mac": 0.5})], "did you mean 'macs'?"),
        ([{"shrink": {}}], "shrink.budget: this key is missing"),
        ([shrink(score="l3")], "use 'l1', 'l2', 'taylor'"),
        ([{"quantize": {}}, shrink()], "comes after stages[0].quantize"),
        ([{"quantize": {}, **shrink()}], "comes after stages[0].quantize"),
        ([{**prune(sparsity=0.5), **shrink()}], "prune in a later stage"),
    ],
)
def test_removing_units_says_what_and_when(stages, expected):
    assert expected in problem(*stages)


def test_rows_choose_what_one_stage_may_not_hold_at_once():
    stage = {**prune(sparsity=0.5), **shrink()}
    rows = [{"name": "a", "use": ["prune"]}, {"name": "b", "use": ["shrink"]}]
    config_of(stage, compare={"rows": rows})
    rows[0]["use"].append("shrink")
    line = problem(stage, compare={"rows": rows})
    assert "row 'a'" in line and "prune in a later stage" in line
