"""Effects of a full factorial design, against least squares, and their coverage."""

import itertools

import numpy as np
import pytest
import scipy.stats

from compress.report import load_compare
from compress.report.claim_texts import claim_notes
from compress.report.effects import effects, factorial_effect, missing_combinations

LETTERS = ("P", "Q", "D")
ROWS = {
    "plain": (),
    "P": ("P",),
    "Q": ("Q",),
    "D": ("D",),
    "PQ": ("P", "Q"),
    "QP": ("Q", "P"),
    "PD": ("P", "D"),
    "QD": ("Q", "D"),
    "PQD": ("P", "Q", "D"),
}


@pytest.fixture
def design(tmp_path, made_up):
    """A compare directory of a 2^3 design."""

    def _design(seeds=(0, 1, 2, 3), rows=ROWS, skill=lambda letters: 0.9):
        specs = {row: (skill(has), 0.0, 32, []) for row, has in rows.items()}
        directory = made_up.write_compare(
            tmp_path / "design",
            specs,
            seeds,
            reference="plain",
            contrasts=[],
            factors=list(LETTERS),
            design={row: list(has) for row, has in rows.items()},
        )
        return load_compare(directory)

    return _design


def by_least_squares(values, of):
    """The coefficient of a product of factors coded -1/2 and 1/2, at each seed."""
    codes = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    subsets = [s for n in range(4) for s in itertools.combinations(range(3), n)]
    columns = np.stack([codes[:, list(s)].prod(axis=1) for s in subsets], axis=1)
    return np.linalg.lstsq(columns, values)[0][subsets.index(of)]


@pytest.mark.parametrize("of", [(0,), (2,), (0, 1), (1, 2), (0, 1, 2)])
def test_an_effect_is_the_coefficient_of_the_linear_model(of):
    values = np.random.default_rng(0).normal(size=(8, 5))
    there = list(itertools.product((False, True), repeat=3))
    found = factorial_effect(values, there, of)
    assert found == pytest.approx(by_least_squares(values, of))


def test_effects_are_the_differences_that_their_names_say(design):
    comparison = design()
    y = {
        row: np.array([cell.score for cell in comparison.cells_of(row)]) for row in ROWS
    }
    pq = (y["PQ"] + y["QP"]) / 2  # other orders of the same techniques are averaged
    with_p = (y["P"] + pq + y["PD"] + y["PQD"]) / 4
    without_p = (y["plain"] + y["Q"] + y["D"] + y["QD"]) / 4
    where_d = (y["PQD"] - y["QD"]) - (y["PD"] - y["D"])
    elsewhere = (pq - y["Q"]) - (y["P"] - y["plain"])
    expected = {
        "P": with_p - without_p,
        "P x Q": (where_d + elsewhere) / 2,
        "P x Q x D": where_d - elsewhere,
    }
    found = {effect.name: effect for effect in effects(comparison)}
    assert list(found) == ["P", "Q", "D", "P x Q", "P x D", "Q x D", "P x Q x D"]
    for name, values in expected.items():
        effect, oracle = found[name], scipy.stats.ttest_1samp(values, 0.0)
        assert effect.mean == pytest.approx(values.mean())
        assert effect.interval == pytest.approx(tuple(oracle.confidence_interval()))
        assert effect.p == pytest.approx(oracle.pvalue)
        assert effect.num_seeds == 4


def test_only_seeds_that_finished_in_every_row_count(design, tmp_path):
    design()
    (tmp_path / "design" / "QD-2" / "result.json").unlink()
    found = effects(load_compare(tmp_path / "design"))
    assert {effect.num_seeds for effect in found} == {3}


def test_a_row_without_any_seed_leaves_a_note_instead_of_effects(design, tmp_path):
    design()
    for seed in range(4):
        (tmp_path / "design" / f"QD-{seed}" / "result.json").unlink()
    (note,) = claim_notes(load_compare(tmp_path / "design"))
    assert note.startswith("No effects: there is no seed that every row of the design")


def test_one_seed_gives_effects_without_an_interval(design):
    found = effects(design(seeds=(0,)))
    assert len(found) == 7
    assert {(effect.interval, effect.p) for effect in found} == {(None, None)}


def test_without_a_row_for_each_combination_there_are_no_effects(design):
    rows = {row: has for row, has in ROWS.items() if row not in ("QD", "PQD")}
    comparison = design(rows=rows)
    assert effects(comparison) == []
    assert missing_combinations(comparison) == [("Q", "D"), ("P", "Q", "D")]


def test_a_comparison_without_orders_has_no_effects(compare_dir):
    assert effects(load_compare(compare_dir)) == []
