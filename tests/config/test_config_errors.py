"""Every mistake in a value: where it is, what was found, what to do."""

import pickle

import pytest

from compress.config import (
    ConfigError,
    Distill,
    Prune,
    load_config,
    nearest,
    parse_config,
)

FULL = """\
task: my_project.tasks:digits
model: {width: 64, act: relu}
teacher:
  model: {width: 256}
  steps: 500
  learning_rate: 1e-3
batch_size: 128
optimizer: {name: adamw, weight_decay: 1e-4}
stages:
  - name: dense
    steps: 400
    learning_rate: {schedule: cosine, peak: 1e-2, warmup: 50}
    distill: {temperature: 4, soft_weight: 0.9, hard_weight: 0.1}
  - steps: 300
    learning_rate: 1e-3
    prune:
      sparsity: 0.5
      sites: "**/kernel"
  - steps: 200
    learning_rate: 1e-4
    prune: {sparsity: 0.8, sites: ["**/kernel"]}
    quantize:
      delay: 20
      exclude: ["head/**"]
seeds: [0, 1]
"""


@pytest.fixture
def problems(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def _problems(*replacements, text=FULL):
        for old, new in replacements:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (tmp_path / "run.yaml").write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_config("run.yaml")
        return caught.value.problems

    return _problems


def test_the_full_example_is_valid(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(FULL)
    config = load_config(path)
    assert [stage.name for stage in config.stages] == ["dense", "stage1", "stage2"]
    assert config.stages[1].learning_rate.peak == 1e-3
    assert config.stages[1].learning_rate.schedule == "constant"
    assert config.stages[1].prune == Prune(sparsity=0.5, sites=("**/kernel",))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "sparsity: 0.5",
            "sparsity: 0.5\n      sparsty: 1",
            (
                "run.yaml:18: stages[1].prune.sparsty: unknown key; did you mean "
                "'sparsity'?"
            ),
        ),
        (
            "temperature: 4,",
            "zzzz: 4,",
            (
                "run.yaml:13: stages[0].distill.zzzz: unknown key; known here: "
                "temperature, soft_weight, hard_weight"
            ),
        ),
        (
            "peak: 1e-2, warmup",
            "peak: 1e-2, warmpu",
            (
                "run.yaml:12: stages[0].learning_rate.warmpu: unknown key; did you "
                "mean 'warmup'?"
            ),
        ),
        (
            "schedule: cosine, ",
            "",
            (
                "run.yaml:12: stages[0].learning_rate.schedule: this key is missing; "
                "add it. Shape from"
            ),
        ),
        (
            "schedule: cosine",
            "schedule: cosin",
            (
                "run.yaml:12: stages[0].learning_rate.schedule: found 'cosin'; use "
                "'constant', 'cosine' or 'linear'"
            ),
        ),
        (
            "learning_rate: 1e-4",
            "learning_rate: 0",
            "run.yaml:20: stages[2].learning_rate: found 0; must be above 0",
        ),
        (
            "learning_rate: 1e-4",
            "learning_rate: fast",
            (
                "run.yaml:20: stages[2].learning_rate: found 'fast'; write a number "
                "above 0, or a mapping with schedule and peak"
            ),
        ),
        (
            "steps: 500",
            "steps: 5e2",
            "run.yaml:5: teacher.steps: found 500.0; write a whole number, 500",
        ),
        (
            "steps: 500",
            "steps:",
            "run.yaml:5: teacher.steps: found nothing (null); write a whole number",
        ),
        (
            "steps: 500",
            "steps: true",
            "run.yaml:5: teacher.steps: found true; write a whole number",
        ),
        (
            "model: {width: 256}",
            "model: 256",
            "run.yaml:4: teacher.model: found 256; write a mapping of `key: value`",
        ),
        (
            "width: 64,",
            "width: .nan,",
            "run.yaml:2: model.width: found nan; write text, a finite number",
        ),
        (
            "weight_decay: 1e-4",
            "weight_decay: '1e-4'",
            (
                "run.yaml:8: optimizer.weight_decay: found '1e-4'; write a number, "
                "without quotes"
            ),
        ),
        (
            "weight_decay: 1e-4",
            "weight_decay: .inf",
            "run.yaml:8: optimizer.weight_decay: found inf; write a finite number",
        ),
        (
            "weight_decay: 1e-4",
            "momentum: 1",
            "run.yaml:8: optimizer.momentum: found 1; must be below 1",
        ),
        (
            "weight_decay: 1e-4",
            "weight_decay: -1",
            "run.yaml:8: optimizer.weight_decay: found -1; must be at least 0",
        ),
        (
            "name: dense",
            "name: 3",
            "run.yaml:10: stages[0].name: found 3; write text, in quotes: '3'",
        ),
        (
            "task: my_project.tasks:digits",
            "task: my_project.tasks.digits",
            (
                "run.yaml:1: task: found 'my_project.tasks.digits'; write it as "
                "package.module:attribute"
            ),
        ),
        (
            "seeds: [0, 1]",
            "seeds: []",
            "run.yaml:25: seeds: found an empty list; give at least 1",
        ),
        (
            "seeds: [0, 1]",
            "seeds: 1",
            "run.yaml:25: seeds: found 1; write a list, like [a, b]",
        ),
        (
            "seeds: [0, 1]",
            "seeds: [0, -1]",
            "run.yaml:25: seeds[1]: found -1; must be at least 0",
        ),
        (
            'sites: "**/kernel"',
            'sites: ""',
            "run.yaml:18: stages[1].prune.sites: found an empty text; give at least 1",
        ),
        (
            'sites: "**/kernel"',
            "sites: [a, 3]",
            "run.yaml:18: stages[1].prune.sites[1]: found 3; write text, in quotes",
        ),
        (
            'sites: "**/kernel"',
            "sites: []",
            "run.yaml:18: stages[1].prune.sites: found an empty list; give at least 1",
        ),
        (
            'sites: "**/kernel"',
            "until: 1.5",
            "run.yaml:18: stages[1].prune.until: found 1.5; must be at most 1",
        ),
        (
            "delay: 20",
            "weights: int2",
            "run.yaml:23: stages[2].quantize.weights: found 'int2'; use 'int8'",
        ),
    ],
)
def test_a_bad_value_has_one_error_at_its_line(problems, old, new, expected):
    (line,) = problems((old, new))
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("replacements", "expected"),
    [
        (
            [("teacher:\n  model: {width: 256}\n  steps: 500\n", ""),
             ("  learning_rate: 1e-3\nbatch_size", "batch_size")],
            ("run.yaml:9: stages[0].distill: distillation needs a teacher; add "
            "`teacher:` with model, steps and learning_rate, or remove distill"),
        ),
        (
            [("soft_weight: 0.9", "soft_weight: 0"), ("_weight: 0.1", "_weight: 0")],
            ("run.yaml:13: stages[0].distill: both weights are 0, so nothing is "
            "learned; make one positive"),
        ),
        (
            [("seeds: [0, 1]", "export:\n  quantize: {}\n")],
            ("run.yaml:26: export.quantize: stages[2].quantize already decides the "
            "ranges in training; remove this or that"),
        ),
        (
            [("delay: 20", "weights: null")],
            ("run.yaml:22: stages[2].quantize.activations: activations need quantized "
            "weights; use weights: int8"),
        ),
        (
            [("delay: 20", "weights: null\n      activations: null")],
            ("run.yaml:22: stages[2].quantize: weights and activations are both null; "
            "set weights, or remove it"),
        ),
        (
            [("sparsity: 0.8", "sparsity: 0.4")],
            ("run.yaml:21: stages[2].prune.sparsity: found 0.4, below the 0.5 of "
            "stages[1]; pruned weights do not come back, so give 0.5 or more"),
        ),
        (
            [("delay: 20", "delay: 200")],
            ("run.yaml:23: stages[2].quantize.delay: found 200, but the stage has 200 "
            "steps, so fake-quant would never start; give a smaller delay"),
        ),
        (
            [("    prune:\n", ("    quantize: {exclude: ['head/**'], decay: 0.5, "
              "delay: 20}\n    prune:\n"))],
            ("run.yaml:23: stages[2].quantize.decay: found 0.99, but stages[1] has 0.5 "
            "and fake-quant stays on as it is; repeat that, or leave quantize out"),
        ),
        (
            [("    prune:\n", "    quantize: {delay: 20}\n    prune:\n")],
            ("run.yaml:25: stages[2].quantize.exclude: found ['head/**'], but "
            "stages[1] has [] and"),
        ),
        (
            [("seeds: [0, 1]", "seeds: [0, 1, 0]")],
            "run.yaml:25: seeds[2]: 0 is there twice; list each seed once",
        ),
        (
            [("  - steps: 300", "  - name: dense\n    steps: 300")],
            "run.yaml:14: stages[1].name: 'dense' is there twice; rename one of the",
        ),
        (
            [("warmup: 50", "warmup: 400")],
            ("run.yaml:12: stages[0].learning_rate.warmup: found 400, but only 400 "
            "steps follow; give fewer"),
        ),
        (
            [("schedule: cosine", "schedule: constant, end: 1e-5")],
            ("run.yaml:12: stages[0].learning_rate.end: a constant rate has no end; "
            "remove it, or use cosine or linear"),
        ),
    ],
)  # fmt: skip
def test_values_that_disagree_have_one_error_at_the_line_to_change(
    problems, replacements, expected
):
    (line,) = problems(*replacements)
    assert line.startswith(expected)


def test_a_later_stage_may_omit_or_repeat_quantize_and_prune_after_it():
    stages = [
        {"steps": 9, "learning_rate": 0.1, "quantize": {"decay": 0.5}},
        {"steps": 9, "learning_rate": 0.1, "prune": {"sparsity": 0.5}},
        {"steps": 9, "learning_rate": 0.1, "quantize": {"decay": 0.5}},
    ]
    config = parse_config({"task": "a:b", "batch_size": 1, "stages": stages})
    assert config.stages[2].quantize == config.stages[0].quantize


def test_one_distillation_weight_may_be_zero():
    distill = {"soft_weight": 0, "hard_weight": 1}
    teacher = {"model": {}, "steps": 1, "learning_rate": 0.1}
    stages = [{"steps": 9, "learning_rate": 0.1, "distill": distill}]
    values = {"task": "a:b", "batch_size": 1, "stages": stages, "teacher": teacher}
    assert parse_config(values).stages[0].distill == Distill(**distill)


def test_all_problems_are_reported_at_once_under_a_count(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = FULL.replace("seeds", "sedes").replace("128", "-1").replace("0.5", "x")
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config("run.yaml", ["stages[9].steps=1"])
    assert str(caught.value).splitlines() == [
        "4 problems in run.yaml:",
        "  --set stages[9]: no such item: there are 3, and the first is stages[0]",
        "  run.yaml:7: batch_size: found -1; must be at least 1",
        "  run.yaml:17: stages[1].prune.sparsity: found 'x'; write a number",
        "  run.yaml:25: sedes: unknown key; did you mean 'seeds'?",
    ]


def test_a_missing_key_is_placed_at_the_mapping_that_lacks_it(problems):
    (line,) = problems(("      sparsity: 0.5\n", ""))
    assert line == (
        "run.yaml:16: stages[1].prune.sparsity: this key is missing; add it. "
        "Fraction of zeros to reach."
    )
    (line,) = problems(("batch_size: 128\n", ""))
    assert line.startswith("run.yaml:1: batch_size: this key is missing; add it.")


def test_a_wrong_stage_does_not_hide_the_others_or_empty_the_list(problems):
    lines = problems(text="task: a:b\nbatch_size: 1\nstages: [3, {steps: 0}]\n")
    assert [line.split(";")[0] for line in lines] == [
        "run.yaml:3: stages[0]: found 3",
        "run.yaml:3: stages[1].steps: found 0",
        "run.yaml:3: stages[1].learning_rate: this key is missing",
    ]


def test_a_mapping_without_a_file_has_paths_and_no_places():
    with pytest.raises(ConfigError) as caught:
        parse_config({"task": "a:b", "batch_size": 1, "stages": [], "fast": {}})
    assert caught.value.problems == (
        "stages: found an empty list; give at least 1",
        "fast: only a file may have 'fast', not an override or a resolved config",
    )
    with pytest.raises(ConfigError, match="found 3; give a mapping"):
        parse_config(3)


def test_the_error_survives_pickling():
    error = ConfigError("run.yaml", ["a", "b"])
    copied = pickle.loads(pickle.dumps(error))
    assert str(copied) == str(error)
    assert copied.problems == ("a", "b")
    assert isinstance(copied, ValueError)


def test_nearest_ranks_by_likeness_and_ignores_case():
    names = ["blocks/mlp/kernel", "head/kernel", "head/bias"]
    assert nearest("HEAD/kernle", names, n=1) == ["head/kernel"]
    assert nearest("relu", ["RELU", "gelu"], n=1) == ["RELU"]
    assert nearest("zzz", names) == []
    assert nearest("zzz", names, n=2, cutoff=0.0) == names[:2]


def test_a_batch_size_that_is_timed_twice_is_refused():
    rows = [{"name": "float"}]
    settings = {
        "task": "my_project.tasks:digits",
        "batch_size": 8,
        "stages": [{"steps": 1, "learning_rate": 0.1}],
        "compare": {"rows": rows, "latency": {"batches": [1, 8, 1]}},
    }
    with pytest.raises(ConfigError, match="a batch size is there twice; list each"):
        parse_config(settings)
