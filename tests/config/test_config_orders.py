"""Rows declared by the order of their techniques, and contrasts between rows."""

import itertools

import pytest

from compress.config import (
    ConfigError,
    Contrast,
    config_hash,
    factorial_design,
    load_config,
    parse_config,
    row_config,
)
from compress.config.orders import all_orders, parse_order

STUDY = """\
task: tasks:digits
batch_size: 32
teacher: {model: {width: 8}, steps: 10, learning_rate: 0.1}
stages:
  - {name: pretrain, steps: 40, learning_rate: 0.1}
  - {name: first, steps: 30, learning_rate: 0.03}
  - {name: second, steps: 20, learning_rate: 0.02}
  - {name: third, steps: 10, learning_rate: 0.01}
export:
  quantize: {batches: 4}
compare:
  techniques:
    P: {prune: {sparsity: 0.9}}
    Q: {quantize: {delay: 2}}
    D: {distill: {temperature: 2}}
  objectives: [first, second, third]
  reference: baseline + budget
  rows:
    - {name: baseline, stages: 1}
    - {name: PTQ, use: [ptq]}
    - {name: joint, order: (PQD)}
    - {name: P+PTQ, order: P, use: [ptq]}
  orders: PQD
  contrasts:
    - PQ - QP
    - [PQD, PDQ]
    - {claim: PTQ = baseline + budget, margin: 0.5}
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def _load(*replacements, overrides=()):
        text = STUDY
        for old, new in replacements:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (tmp_path / "run.yaml").write_text(text)
        return load_config("run.yaml", overrides)

    return _load


@pytest.fixture
def row_of(load):
    config = load()

    def _row(name):
        (row,) = [row for row in config.compare.rows if row.name == name]
        return row_config(config, row)

    return _row


def techniques(config):
    """By stage, what is on in it."""
    names = ("prune", "quantize", "distill")
    return [
        "".join(n[0].upper() for n in names if getattr(stage, n) is not None)
        for stage in config.stages
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("baseline + budget", ["", "", "", ""]),
        ("P", ["", "P", "", ""]),
        ("PQ", ["", "P", "Q", "Q"]),
        ("QP", ["", "Q", "PQ", "Q"]),
        ("QDP", ["", "Q", "QD", "PQ"]),
        ("DPQ", ["", "D", "P", "Q"]),
        ("joint", ["", "PQD", "Q", "Q"]),
        ("P+PTQ", ["", "P", "", ""]),
    ],
)
def test_stage_k_trains_the_kth_letter_and_fake_quant_stays_on(row_of, name, expected):
    assert techniques(row_of(name)) == expected


def test_every_row_has_the_same_lengths_and_rates_by_stage(load):
    config = load()
    budgets = {
        tuple((stage.steps, stage.learning_rate) for stage in row.stages)
        for row in (row_config(config, row) for row in config.compare.rows)
        if row.name != "baseline"
    }
    assert len(budgets) == 1


def test_settings_of_a_letter_are_those_of_the_techniques(row_of):
    last = row_of("PDQ").stages
    assert last[1].prune.sparsity == 0.9
    assert last[2].distill.temperature == 2
    assert last[3].quantize.delay == 2


def test_only_what_distills_has_a_teacher(row_of):
    assert row_of("QD").teacher is not None
    assert row_of("PQ").teacher is None


def test_ptq_goes_with_an_order(row_of):
    assert row_of("P+PTQ").export.quantize is not None
    assert row_of("P").export.quantize is None


def test_distillation_that_stays_is_in_every_later_stage(load):
    config = load(("temperature: 2}", "temperature: 2}, stays: true"))
    (row,) = [row for row in config.compare.rows if row.name == "DPQ"]
    assert techniques(row_config(config, row)) == ["", "D", "PD", "QD"]


def test_a_row_may_change_settings_after_its_order(load):
    new = "order: (PQD), set: {'stages[1].prune.sparsity': 0.5}"
    config = load(("order: (PQD)", new))
    (row,) = [row for row in config.compare.rows if row.name == "joint"]
    assert row_config(config, row).stages[1].prune.sparsity == 0.5


def test_orders_adds_all_subsets_in_all_orders_but_those_there_are(load):
    names = [row.name for row in load().compare.rows]
    assert names == [
        *("baseline", "PTQ", "joint", "P+PTQ", "baseline + budget"),
        *("P", "Q", "D", "PQ", "QP", "PD", "DP", "QD", "DQ"),
        *("PQD", "PDQ", "QPD", "QDP", "DPQ", "DQP"),
    ]


def test_all_orders_are_the_permutations_of_the_subsets_and_the_joint_one():
    found = all_orders("ABCD")
    expected = {
        "".join(order) for n in range(5) for order in itertools.permutations("ABCD", n)
    }
    assert set(found) == expected | {"(ABCD)"}
    assert len(found) == len(set(found))
    assert all_orders("A") == ["", "A"]


def test_the_design_is_of_rows_that_are_declared_by_their_order_alone(load):
    design = factorial_design(load().compare)
    assert design["QDP"] == ("P", "Q", "D")
    assert design["baseline + budget"] == ()
    assert not {"joint", "P+PTQ", "PTQ", "baseline"} & set(design)
    assert len(design) == 16


def test_a_study_that_was_saved_is_the_same(load):
    config = load()
    again = parse_config(config.model_dump(mode="json"))
    assert again == config == parse_config(config.model_dump())
    for row in config.compare.rows:
        assert config_hash(row_config(config, row)) == config_hash(
            row_config(again, row)
        )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("PQ", ["P", "Q"]),
        ("(PQ).D", ["PQ", "", "D"]),
        ("..D", ["", "", "D"]),
    ],
)
def test_an_order_is_read_stage_by_stage(text, expected):
    assert parse_order(text) == expected


def test_contrasts_may_be_text_pairs_or_claims_with_a_margin(load):
    assert load().compare.contrasts == (
        Contrast(row="PQ", other="QP"),
        Contrast(row="PQD", other="PDQ"),
        Contrast(row="PTQ", other="baseline + budget", relation="=", margin=0.5),
    )


ROW = "run.yaml:21: compare.rows[2]"
BAD = [
    ("order: (PQD)", "order: PXD", f"{ROW}.order: row 'joint': X is not in compare."),
    ("order: (PQD)", "order: PQP", f"{ROW}.order: found 'PQP'; P is there twice"),
    ("order: (PQD)", "order: P-Q", f"{ROW}.order: found 'P-Q'; write a letter per"),
    ("order: (PQD)", "order: (P)", f"{ROW}.order: found '(P)'; write a letter per"),
    (
        "order: (PQD)",
        "order: PQ.D",
        f"{ROW}.order: row 'joint': 'PQ.D' takes 4 stages, but there are 3: first, "
        "second, third; add stages",
    ),
    (
        "order: (PQD)",
        "order: PQ, use: [distill]",
        f"{ROW}.use: row 'joint': order says which techniques there are",
    ),
    (
        "order: (PQD)",
        "order: PQ, stages: 2",
        f"{ROW}.stages: row 'joint': rows with an order have equal budgets",
    ),
    ("orders: PQD", "orders: PX", "run.yaml:23: compare.orders: X is not in compare."),
    (
        "orders: PQD",
        "orders: pq",
        "run.yaml:23: compare.orders: found 'pq'; write lett",
    ),
    (
        "objectives: [first, second, third]",
        "objectives: [first, second, thrid]",
        "run.yaml:16: compare.objectives[2]: no stage is called 'thrid'; did you mean "
        "'third'?",
    ),
    (
        "objectives: [first, second, third]",
        "objectives: [first, third, second]",
        "run.yaml:16: compare.objectives[2]: 'second' runs before a stage named",
    ),
    (
        "P: {prune: {sparsity: 0.9}}",
        "P: {prune: {sparsty: 0.9}}",
        "run.yaml:13: compare.techniques.P.prune.sparsty: unknown key; did you mean "
        "'sparsity'?",
    ),
    (
        "P: {prune: {sparsity: 0.9}}",
        "P: {prune: {sparsity: 0.9}, distill: {}}",
        "run.yaml:13: compare.techniques.P: found a mapping; give one of prune,",
    ),
    (
        "P: {prune: {sparsity: 0.9}}",
        "P: {prune: {sparsity: 0.9}, stays: true}",
        "run.yaml:13: compare.techniques.P: found a mapping; only distill may stay",
    ),
    (
        "Q: {quantize: {delay: 2}}",
        "Q: {quantize: {delay: 30}}",
        "run.yaml:14: stages[1].quantize.delay: row 'joint': found 30, but the stage",
    ),
    (
        "D: {distill: {temperature: 2}}",
        "D: {distill: {}}\n    deep: {prune: {sparsity: 0.5}}",
        "run.yaml:16: compare.techniques.deep: orders are written in capital letters",
    ),
    (
        "PQ - QP",
        "PQ - QPP",
        "run.yaml:25: compare.contrasts[0]: no row is called 'QPP'; did you mean 'QP'?",
    ),
    (
        "PQ - QP",
        "PQ-QP",
        "run.yaml:25: compare.contrasts[0]: found 'PQ-QP'; write 'A - B'",
    ),
    (
        "PQ - QP",
        "PQ - PQ",
        "run.yaml:25: compare.contrasts[0]: compares 'PQ' with itself",
    ),
    (
        "PQ - QP",
        "PDQ - PQD",
        "run.yaml:26: compare.contrasts[1]: 'PQD - PDQ' is there twice; remove one",
    ),
    (
        "PQ - QP",
        "PQ = QP",
        "run.yaml:25: compare.contrasts[0]: 'PQ = QP' has no margin; write {claim: "
        "'PQ = QP', margin: 0.5}",
    ),
    (
        "margin: 0.5",
        "margin: 0",
        "run.yaml:27: compare.contrasts[2].margin: found 0; must be above 0",
    ),
    (
        "PTQ = baseline + budget",
        "PTQ > baseline + budget",
        "run.yaml:27: compare.contrasts[2]: 'PTQ > baseline + budget' has a margin, "
        "which goes with '='",
    ),
    (
        "[PQD, PDQ]",
        "[PQD]",
        "run.yaml:26: compare.contrasts[1]: found a list of 1; name two rows",
    ),
    (
        "batch_size: 32",
        "batch_size: 32\nseeds: [0, 1, 1]",
        "run.yaml:3: seeds[2]: 1 is there twice; list each seed once",
    ),
]


@pytest.mark.parametrize(("old", "new", "expected"), BAD)
def test_what_is_wrong_is_said_at_its_line_before_anything_runs(
    load, old, new, expected
):
    with pytest.raises(ConfigError) as caught:
        load((old, new))
    assert caught.value.problems[0].startswith(expected)


def test_two_letters_of_one_technique_need_two_stages(load):
    more = "D: {distill: {temperature: 2}}\n    R: {prune: {sparsity: 0.95}}"
    declared = ("D: {distill: {temperature: 2}}", more)
    assert load(declared, ("order: (PQD)", "order: PR"))
    with pytest.raises(ConfigError, match="P and R are both prune"):
        load(declared, ("order: (PQD)", "order: (PR)"))


def test_a_problem_that_all_orders_share_is_said_once(load):
    with pytest.raises(ConfigError) as caught:
        load(
            ("teacher: {model: {width: 8}, steps: 10, learning_rate: 0.1}\n", ""),
            ("    - {name: joint, order: (PQD)}\n", ""),
        )
    by_stage = {line.split(":")[2].strip() for line in caught.value.problems}
    assert len(caught.value.problems) <= len(by_stage) <= 3


def test_a_score_from_inputs_must_come_before_quantization(load):
    wanda = "P: {prune: {sparsity: 0.9, score: wanda, schedule: one_shot}}"
    with pytest.raises(ConfigError, match=r"stages\[1\].quantize is on by then; prune"):
        load(("P: {prune: {sparsity: 0.9}}", wanda))
    orders = ("orders: PQD", "orders: PD")
    contrasts = ("    - PQ - QP\n    - [PQD, PDQ]\n", "")
    assert load(("P: {prune: {sparsity: 0.9}}", wanda), orders, contrasts)


def test_settings_of_a_letter_can_be_overridden(load):
    config = load(overrides=["compare.techniques.P.prune.sparsity=0.5"])
    assert config.compare.techniques["P"].prune.sparsity == 0.5
    with pytest.raises(ConfigError, match="did you mean 'sparsity'"):
        load(overrides=["compare.techniques.P.prune.sparsty=0.5"])
