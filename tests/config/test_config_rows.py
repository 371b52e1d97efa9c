"""Comparisons: each row is the config with only some of its techniques."""

import json

import pytest

from compress.config import (
    ConfigError,
    Quantize,
    Row,
    config_hash,
    load_config,
    parse_config,
    row_config,
)

COMPARE = """\
task: tasks:digits
batch_size: 32
teacher: {model: {width: 8}, steps: 10, learning_rate: 0.1}
stages:
  - steps: 100
    learning_rate: 0.1
    prune: {sparsity: 0.5}
    distill: {}
  - steps: 50
    learning_rate: 0.01
    quantize: {delay: 10}
export:
  quantize: {batches: 4}
compare:
  rows:
    - {name: float}
    - {name: pruned, use: [prune], stages: 1}
    - {name: ptq, use: [ptq], set: {batch_size: 16}}
    - name: all
      use: [prune, quantize, distill]
      set:
        stages[1].quantize.delay: 5
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def _load(*replacements):
        text = COMPARE
        for old, new in replacements:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (tmp_path / "run.yaml").write_text(text)
        return load_config("run.yaml")

    return _load


def _row(config, name):
    (row,) = [row for row in config.compare.rows if row.name == name]
    return row_config(config, row)


def test_a_row_keeps_only_the_techniques_it_uses(load):
    config = load()
    plain, both = _row(config, "float"), _row(config, "all")
    for stage in plain.stages:
        assert stage.prune is stage.quantize is stage.distill is None
    assert plain.teacher is None
    assert plain.export.quantize is None
    assert (plain.name, plain.compare) == ("float", None)
    assert both.stages[0] == config.stages[0]
    assert both.teacher == config.teacher
    assert both.stages[1].quantize == Quantize(delay=5)


def test_a_row_keeps_the_first_stages_and_sets_values_last(load):
    config = load()
    assert _row(config, "pruned").stages == (
        config.stages[0].model_copy(update={"distill": None}),
    )
    ptq = _row(config, "ptq")
    assert ptq.export == config.export
    assert ptq.batch_size == 16


def test_the_reference_is_the_first_row_unless_given(load):
    assert load().compare.reference == "float"
    given = load(("compare:", "compare:\n  reference: ptq"))
    assert given.compare.reference == "ptq"


def test_a_row_of_the_saved_config_is_the_same(load):
    config = load()
    again = parse_config(json.loads(config.model_dump_json()))
    assert config == again == parse_config(config.model_dump())
    for row in config.compare.rows:
        assert row_config(config, row) == row_config(again, row)
        assert parse_config(row_config(config, row).model_dump()).name == row.name


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "compare:",
            "compare:\n  reference: flaot",
            (
                "run.yaml:15: compare.reference: no row is called 'flaot'; did you "
                "mean 'float'?"
            ),
        ),
        (
            "name: ptq",
            "name: float",
            (
                "run.yaml:18: compare.rows[2].name: 'float' is there twice; rename one "
                "of the rows"
            ),
        ),
        (
            "use: [ptq]",
            "use: [pqt]",
            (
                "run.yaml:18: compare.rows[2].use[0]: found 'pqt'; use 'prune', "
                "'shrink', 'quantize', 'distill' or 'ptq'"
            ),
        ),
        (
            "use: [prune], stages: 1",
            "use: [prune, quantize], stages: 1",
            (
                "run.yaml:17: compare.rows[1].use: row 'pruned': uses 'quantize', "
                "which none of the first 1 stages declares; add quantize to a stage"
            ),
        ),
        (
            "export:\n  quantize: {batches: 4}\n",
            "",
            (
                "run.yaml:16: compare.rows[2].use: row 'ptq': uses 'ptq', which "
                "nothing declares; add export.quantize, or leave ptq out"
            ),
        ),
        (
            "use: [ptq]",
            "use: [ptq, quantize]",
            (
                "run.yaml:18: compare.rows[2].use: row 'ptq': both 'quantize' and "
                "'ptq' decide the ranges; use one of the two"
            ),
        ),
        (
            "stages: 1}",
            "stages: 3}",
            (
                "run.yaml:17: compare.rows[1].stages: row 'pruned': found 3, but the "
                "config has 2; give that or less"
            ),
        ),
        (
            "batch_size: 16",
            "batch_sise: 16",
            (
                "run.yaml:18: batch_sise: row 'ptq': unknown key; did you mean "
                "'batch_size'?"
            ),
        ),
        (
            "batch_size: 16",
            "batch_size: 0",
            "run.yaml:18: batch_size: row 'ptq': found 0; must be at least 1",
        ),
        (
            "batch_size: 16",
            "name: x",
            "run.yaml:18: name: row 'ptq': a row decides this itself; remove it from",
        ),
        (
            "stages[1].quantize.delay: 5",
            "stages[1].quantize.delay: 50",
            (
                "run.yaml:22: stages[1].quantize.delay: row 'all': found 50, but the "
                "stage has 50 steps"
            ),
        ),
        (
            "stages[1].quantize.delay: 5",
            "stages[2].steps: 50",
            "run.yaml:22: stages[2]: row 'all': no such item: there are 2",
        ),
        (
            "batch_size: 16",
            "'stages[0].prune.sparsity': 0.5",
            (
                "run.yaml:18: compare.rows[2].use: row 'ptq': set declares prune; add "
                "prune to use, or unset it"
            ),
        ),
    ],
)
def test_a_bad_row_is_found_when_the_config_is_loaded(load, old, new, expected):
    with pytest.raises(ConfigError) as caught:
        load((old, new))
    (line,) = caught.value.problems
    assert line.startswith(expected)


def test_bad_rows_are_reported_with_the_rest_and_nothing_twice(load):
    with pytest.raises(ConfigError) as caught:
        load(("batch_size: 32", "batch_size: x"), ("stages: 1}", "stages: 3}"))
    assert [line.split(" found")[0] for line in caught.value.problems] == [
        "run.yaml:2: batch_size:",
        "run.yaml:17: compare.rows[1].stages: row 'pruned':",
    ]


def test_a_row_made_by_hand_is_checked_too(load):
    with pytest.raises(ConfigError, match="'quantize', which none of the first 1"):
        row_config(load(), Row(name="x", use=("quantize",), stages=1))


def test_rows_held_in_tuples_are_checked_too(load):
    values = load().model_dump()
    values["compare"]["rows"][1]["stages"] = 3
    with pytest.raises(ConfigError, match=r"found 3, but the config has 2"):
        parse_config(values)


def test_the_hash_is_of_what_changes_the_numbers(load):
    config = load()
    same = {
        "name": "other",
        "compare": None,
        "seeds": (7,),
        "log_every": 1,
        "checkpoint_every": 1,
        "keep_checkpoints": 1,
    }
    assert config_hash(config.model_copy(update=same)) == config_hash(config)
    rows = [row_config(config, row) for row in config.compare.rows]
    hashes = {config_hash(item) for item in [config, *rows]}
    assert len(hashes) == 1 + len(rows)
    assert all(len(item) == 64 for item in hashes)


def test_the_hash_takes_equal_spellings_for_equal():
    base = {"task": "a:b", "batch_size": 1}
    number = {"steps": 5, "learning_rate": 1}
    spelled = {
        "steps": 5,
        "name": "stage0",
        "learning_rate": {"peak": 1.0, "schedule": "constant"},
    }
    one = parse_config({**base, "stages": [number], "model": {"a": 1, "b": 2}})
    other = parse_config({**base, "stages": [spelled], "model": {"b": 2, "a": 1}})
    assert config_hash(one) == config_hash(other)


@pytest.mark.parametrize("change", ["data.hold_out: theo", "task: a:b"])
def test_a_row_cannot_change_what_it_is_judged_on(load, change):
    with pytest.raises(ConfigError, match="rows are judged on the same examples"):
        load(("batch_size: 16", change))


def test_data_arguments_are_part_of_a_runs_identity(load):
    config = load()
    hashes = {
        config_hash(config.model_copy(update={"data": data}))
        for data in ({}, {"hold_out": "theo"}, {"hold_out": "lucas"})
    }
    assert len(hashes) == 3
