"""Reading files: YAML's own mistakes, scalars, bases, fast and overrides."""

import re
from pathlib import Path

import pytest

from compress.config import ConfigError, Prune, load_config
from compress.config.document import with_setting
from compress.config.yaml_file import read_text

MINIMAL = """\
task: tasks.digits:task
batch_size: 32
stages:
  - steps: 100
    learning_rate: 0.1
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def _write(text, name="run.yaml"):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return _write


def _lines(path, *args, **kwargs):
    with pytest.raises(ConfigError) as caught:
        load_config(path, *args, **kwargs)
    assert str(caught.value).count("\n") == len(caught.value.problems)
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "place", "remedy"),
    [
        ("", "run.yaml:1: ", "the file is empty; it needs at least task"),
        ("# only this\n", "run.yaml:1: ", "the file is empty"),
        ("- a\n- b\n", "run.yaml:1: ", "found a list of 2; write `key: value`"),
        ("just text\n", "run.yaml:1: ", "found 'just text'; write `key: value`"),
        ("task: x\nmodel:\n\twidth: 3\n", "run.yaml:3: ", "tab; indent with spaces"),
        ("task: [a, b\n", "run.yaml:", "broken YAML while parsing a flow sequence"),
        ("task: 'x\n", "run.yaml:", "check brackets, quotes and indentation"),
        ("a: 1\n  b: 2\n", "run.yaml:2: ", "check the indentation"),
        ("a: 1\nb\n", "run.yaml:", "could not find expected ':'"),
        ("a: 1\nsites: **/kernel\n", "run.yaml:2: ", 'like "**/kernel"'),
        ("a: 1\nsites: *kernel\n", "run.yaml:2: ", "quote text that starts with *"),
        ("a: 1\n---\nb: 2\n", "run.yaml:2: ", "keep one per file"),
        ("a: \x01\n", "run.yaml: ", "save it as plain text"),
    ],
)
def test_a_file_that_is_not_one_yaml_mapping_has_one_error(write, text, place, remedy):
    (line,) = _lines(write(text))
    assert line.startswith(place)
    assert remedy in line


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        (
            "batch_size: 8\n",
            "run.yaml:6: batch_size: duplicate key; it is on line 2 too, so remove",
        ),
        ("1: a\n", "run.yaml:6: found the key '1'; keys are text, so write it in"),
        ("? [a]\n: b\n", "run.yaml:6: found the key a list or a mapping; keys are"),
        (
            "model: {width: !!python/name:os 3}\n",
            (
                "run.yaml:6: model.width: unknown tag "
                "'tag:yaml.org,2002:python/name:os'; write the value without a tag"
            ),
        ),
        (
            "model: {width: !!int x}\n",
            "run.yaml:6: model.width: 'x' is not of type int; write the value without",
        ),
        ("model: &m\n  a: *m\n", "run.yaml:6: model.a: this alias holds itself"),
    ],
)
def test_a_mistake_inside_good_yaml_names_its_line(write, addition, expected):
    assert _lines(write(MINIMAL + addition))[0].startswith(expected)


def test_duplicate_keys_are_reported_together_with_wrong_values(write):
    lines = _lines(write(MINIMAL.replace("32", "0") + "batch_size: 8\n"))
    assert lines == (
        "run.yaml:6: batch_size: duplicate key; it is on line 2 too, so remove one",
        "run.yaml:2: batch_size: found 0; must be at least 1",
    )


def test_a_missing_file_names_the_nearest_one_beside_it(write):
    write(MINIMAL, "student.yaml")
    assert _lines("studnet.yaml") == (
        "studnet.yaml: no such file; did you mean 'student.yaml'?",
    )
    assert _lines("zzz.yaml")[0].endswith("no such file; check . for its name")
    assert _lines("none/a.yaml")[0].endswith("there is no folder none either")


def test_a_folder_is_not_a_config(write):
    write(MINIMAL, "configs/run.yaml")
    assert _lines("configs") == (
        "configs: is a folder; name a file in it, such as configs/run.yaml",
    )


def test_a_file_that_is_not_utf8_is_refused(write):
    path = write("")
    path.write_bytes(b"task: \xff\xfe\n")
    assert _lines(path) == ("run.yaml: not UTF-8 text; save it as UTF-8",)


def test_scalars_are_those_of_yaml_1_2(write):
    values = (
        "{a: 1e-3, b: no, c: yes, d: on, e: off, f: true, g: False, h: ~, i: null, "
        "j: 0x10, k: 0o17, l: 010, m: -2.5E+3, n: .5, o: 12:30:00, p: 2024-01-01, "
        "q: '1', r: 1_000, s: , t: 7.}"
    )
    model = load_config(write(f"{MINIMAL}model: {values}\n")).model
    assert model == {
        "a": 0.001,
        "b": "no",
        "c": "yes",
        "d": "on",
        "e": "off",
        "f": True,
        "g": False,
        "h": None,
        "i": None,
        "j": 16,
        "k": 15,
        "l": 10,
        "m": -2500.0,
        "n": 0.5,
        "o": "12:30:00",
        "p": "2024-01-01",
        "q": "1",
        "r": "1_000",
        "s": None,
        "t": 7.0,
    }
    assert isinstance(model["a"], float)


def test_the_name_is_the_stem_unless_given(write):
    assert load_config(write(MINIMAL, "a/qat.yaml")).name == "qat"
    assert load_config(write(MINIMAL + "name: other\n")).name == "other"


def test_a_base_merges_mappings_and_replaces_lists(write):
    base = MINIMAL + "model: {width: 8, depth: 2}\nseeds: [1, 2]\n"
    write(base, "shared/base.yaml")
    write("base: base.yaml\nmodel: {width: 16}\n", "shared/wide.yaml")
    path = write("base: ../shared/wide.yaml\nseeds: [3]\n", "runs/one.yaml")
    config = load_config(path)
    assert config.model == {"width": 16, "depth": 2}
    assert config.seeds == (3,)
    assert config.batch_size == 32
    assert config.name == "one"


def test_an_error_from_a_base_names_the_base(write):
    write(MINIMAL.replace("steps", "stesp") + "model: {a: [1]}\n", "base.yaml")
    lines = _lines(write("# head\nbase: base.yaml\nmodel:\n  b: []\nsede: [1]\n"))
    assert lines == (
        (
            "base.yaml:6: model.a: found a list of 1; write text, a finite number, "
            "true, false or null"
        ),
        (
            "run.yaml:4: model.b: found an empty list; write text, a finite number, "
            "true, false or null"
        ),
        (
            "base.yaml:4: stages[0].steps: this key is missing; add it. Optimizer "
            "updates in this stage."
        ),
        "base.yaml:4: stages[0].stesp: unknown key; did you mean 'steps'?",
        "run.yaml:5: sede: unknown key; did you mean 'seeds'?",
    )


def test_a_replaced_list_forgets_the_lines_of_the_base(write):
    write("# one\n# two\n" + MINIMAL, "base.yaml")
    path = write("base: base.yaml\nstages: [{steps: 0, learning_rate: 1}]\n")
    assert _lines(path) == ("run.yaml:2: stages[0].steps: found 0; must be at least 1",)


def test_a_key_missing_from_a_replaced_list_is_not_placed_in_the_base(write):
    write(MINIMAL + "    prune:\n      sparsity: 0.5\n", "base.yaml")
    stage = "{steps: 1, learning_rate: 1, prune: {}}"
    (line,) = _lines(write(f"base: base.yaml\nstages: [{stage}]\n"))
    assert line.startswith("run.yaml:2: stages[0].prune.sparsity: this key is missing")


def test_a_cycle_of_bases_is_shown(write):
    write("base: b.yaml\n", "a.yaml")
    write("\nbase: a.yaml\n", "b.yaml")
    (line,) = _lines("a.yaml")
    assert line == (
        "b.yaml:2: base: base files form a cycle, a.yaml -> b.yaml -> a.yaml; "
        "remove one of these base lines"
    )


def test_a_bad_base_names_the_line_that_asks_for_it(write):
    (line,) = _lines(write("# x\nbase: ../none.yaml\n", "a/run.yaml"))
    assert line.startswith("a/run.yaml:2: base: none.yaml: no such file")
    (line,) = _lines(write("base: [a.yaml]\n"))
    assert line == "run.yaml:1: base: found a list of 1; write one file name"
    write("a: [", "broken.yaml")
    (line,) = _lines(write("base: broken.yaml\n"))
    assert line.startswith("broken.yaml:1: broken YAML")


def test_overrides_are_yaml_and_the_last_wins(write):
    config = load_config(
        write(MINIMAL),
        [
            "stages[0].steps=7",
            "stages[0].steps = 8",
            "model={width: 3}",
            "model.kind=no",
            "seeds=[4, 5]",
            "optimizer.clip_norm=1e-1",
            "task=a.b:c",
            "name=x=y",
        ],
    )
    assert config.stages[0].steps == 8
    assert config.model == {"width": 3, "kind": "no"}
    assert config.seeds == (4, 5)
    assert config.optimizer.clip_norm == 0.1
    assert (config.task, config.name) == ("a.b:c", "x=y")


def test_an_override_makes_a_missing_optional_mapping(write):
    path = write(MINIMAL)
    config = load_config(path, ["stages[0].prune.sparsity=0.9"])
    assert config.stages[0].prune == Prune(sparsity=0.9)
    config = load_config(
        path, ["stages[0].prune={sparsity: 0.5}", "stages[0].prune.sites=**/kernel"]
    )
    assert config.stages[0].prune == Prune(sparsity=0.5, sites=("**/kernel",))
    null = write(MINIMAL + "export:\n")
    assert load_config(null, ["export.static_batch=4"]).export.static_batch == 4


def test_an_override_with_an_empty_value_is_null(write):
    path = write(MINIMAL + "    prune: {sparsity: 0.5}\n")
    assert load_config(path, ["stages[0].prune="]).stages[0].prune is None


def test_a_key_missing_from_what_an_override_made_is_placed_at_it(write):
    path = write(MINIMAL)
    (line,) = _lines(path, ["stages[0].prune.scope=global"])
    assert line.startswith("--set stages[0].prune.sparsity: this key is missing")
    path = write(MINIMAL + "    prune:\n      sparsity: 0.5\n")
    (line,) = _lines(path, ["stages[0].prune={}"])
    assert line.startswith("--set stages[0].prune.sparsity: this key is missing")


def test_a_setting_leaves_the_document_it_is_made_on():
    before = read_text(MINIMAL, "run.yaml")
    after = with_setting(before, "stages[0].steps", 3, "--set ")
    assert after.tree["stages"][0]["steps"] == 3
    assert before.tree["stages"][0]["steps"] == 100
    assert before.place(("stages", 0, "steps")) == "run.yaml:4: "


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "stages[0].prune.sparsty=0.9",
            "--set stages[0].prune.sparsty: unknown key; did you mean 'sparsity'?",
        ),
        (
            "stages[0].prune={sparsity: 0.1, scop: global}",
            "--set stages[0].prune.scop: unknown key; did you mean 'scope'?",
        ),
        (
            "stages[1].steps=3",
            "--set stages[1]: no such item: there are 1, and the first is stages[0]",
        ),
        (
            "stages.steps=3",
            (
                "--set stages.steps: stages is a list of 1; say which, like "
                "stages[0].steps"
            ),
        ),
        (
            "batch_size.x=3",
            (
                "--set batch_size.x: batch_size is 32, not a mapping; set it whole: "
                "batch_size={...}"
            ),
        ),
        (
            "seeds[0]=3",
            "--set seeds[0]: seeds is not given yet; set it whole: seeds=[...]",
        ),
        (
            "stags[0]=3",
            "--set stags: unknown key; did you mean 'stages'?",
        ),
        (
            "batch_size[0]=3",
            "--set batch_size[0]: batch_size is 32, which has no items; set it whole",
        ),
        ("batch_size=0", "--set batch_size: found 0; must be at least 1"),
        ("batch_size", "--set 'batch_size' has no value; write path=value"),
        ("stages[=1", "--set 'stages[' is not a path; write keys joined by dots"),
        ("a..b=1", "--set 'a..b' is not a path; write keys joined by dots"),
        ("=1", "--set '' is not a path; write keys joined by dots"),
        ("model=[1", "--set model: broken YAML"),
        ("model={a: 1, a: 2}", "--set model: a: duplicate key; it is on line 1 too"),
        (
            "base=other.yaml",
            "--set base: only a file may have 'base', not an override",
        ),
    ],
)
def test_a_bad_override_says_set_and_what_to_do(write, override, expected):
    (line,) = _lines(write(MINIMAL), [override])
    assert line.startswith(expected)


def test_a_cross_check_is_placed_at_the_override_that_broke_it(write):
    (line,) = _lines(write(MINIMAL), ["stages[0].quantize.delay=100"])
    assert line.startswith("--set stages[0].quantize.delay: found 100, but the stage")


FAST = MINIMAL + "fast:\n  stages[0].steps: 2\n  stages[0].prune.sparsity: 0.5\n"


def test_fast_values_apply_only_when_asked_for_and_before_overrides(write):
    path = write(FAST)
    assert load_config(path).stages[0].steps == 100
    assert load_config(path).stages[0].prune is None
    assert load_config(path, fast=True).stages[0].steps == 2
    assert load_config(path, fast=True).stages[0].prune == Prune(sparsity=0.5)
    assert load_config(path, ["stages[0].steps=3"], fast=True).stages[0].steps == 3


def test_fast_is_merged_with_that_of_the_base(write):
    write(FAST, "base.yaml")
    path = write("base: base.yaml\nfast: {batch_size: 2}\n")
    config = load_config(path, fast=True)
    assert (config.batch_size, config.stages[0].steps) == (2, 2)


@pytest.mark.parametrize("fast", [False, True])
def test_a_mistake_in_fast_is_found_whether_or_not_it_is_asked_for(write, fast):
    path = write(FAST.replace("steps: 2", "stepz: 2").replace("0.5", "2"))
    assert _lines(path, fast=fast) == (
        "run.yaml:7: fast: stages[0].stepz: unknown key; did you mean 'steps'?",
        "run.yaml:8: fast: stages[0].prune.sparsity: found 2; must be below 1",
    )


def test_fast_must_be_a_mapping(write):
    (line,) = _lines(write(MINIMAL + "fast: true\n"))
    assert re.match(r"run.yaml:6: fast: found true; write a mapping of paths", line)


def test_a_problem_outside_fast_is_reported_once(write):
    lines = _lines(write(FAST.replace("batch_size: 32", "batch_size: x")))
    assert lines == ("run.yaml:2: batch_size: found 'x'; write a whole number",)
