"""Intervals, against scipy and a published table."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from compress.report import bootstrap_difference, paired_difference, summarize
from compress.report.stats import holm, one_sided_p, t_quantile, two_sided_p

VALUES = st.lists(st.floats(0, 1), min_size=2, max_size=12)


@given(st.floats(0.01, 0.999), st.integers(1, 60))
def test_t_quantile_is_scipys(confidence, degrees_of_freedom):
    expected = scipy.stats.t.ppf((1 + confidence) / 2, degrees_of_freedom)
    assert t_quantile(confidence, degrees_of_freedom) == pytest.approx(expected, 1e-9)


@pytest.mark.parametrize(
    ("degrees_of_freedom", "expected"),
    # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2, column 0.975.
    [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042)],
)
def test_t_quantile_is_the_published_table(degrees_of_freedom, expected):
    assert t_quantile(0.95, degrees_of_freedom) == pytest.approx(expected, abs=5e-4)


def test_t_quantile_needs_two_values():
    with pytest.raises(ValueError, match="at least two values"):
        t_quantile(0.95, 0)


@given(VALUES)
def test_interval_of_the_mean_is_scipys(values):
    summary = summarize(values)
    assert summary.mean == pytest.approx(np.mean(values))
    assert summary.sd == pytest.approx(np.std(values, ddof=1))
    if summary.sd and summary.sd > 1e-9:
        error = scipy.stats.sem(values)
        expected = scipy.stats.t.interval(
            0.95, len(values) - 1, loc=np.mean(values), scale=error
        )
        assert summary.interval == pytest.approx(expected, abs=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.floats(-3, 3))
def test_p_values_are_scipys(key, num_seeds, bound):
    values = np.random.default_rng(key).normal(size=num_seeds).tolist()
    above = scipy.stats.ttest_1samp(values, bound, alternative="greater").pvalue
    both = scipy.stats.ttest_1samp(values, bound).pvalue
    # 1e-12: the probability of the rest is subtracted from 1.
    assert one_sided_p(values, bound) == pytest.approx(above, rel=1e-6, abs=1e-12)
    assert two_sided_p(values, bound) == pytest.approx(both, rel=1e-6, abs=1e-12)


def test_p_values_of_values_without_spread_are_those_of_a_known_mean():
    assert one_sided_p([0.5, 0.5, 0.5], 0.25) == 0.0
    assert one_sided_p([0.5, 0.5, 0.5], 0.75) == 1.0
    assert two_sided_p([0.5, 0.5, 0.5], 0.5) == 1.0
    assert two_sided_p([0.5, 0.5, 0.5], 0.75) == 0.0


def test_one_seed_has_no_p_value():
    assert one_sided_p([0.5]) is None
    assert two_sided_p([0.5]) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_bonferroni_in_every_set_of_hypotheses(p_values):
    # Holm's procedure is the closed test: a hypothesis is rejected if Bonferroni
    # rejects every set that holds it. Marcus, Peritz and Gabriel 1976.
    indices = range(len(p_values))
    sets = [s for n in indices for s in itertools.combinations(indices, n + 1)]
    expected = [
        max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in sets if i in s)
        for i in indices
    ]
    assert holm(p_values) == pytest.approx(expected)


def test_holm_of_nothing_is_nothing():
    assert holm([]) == []


def test_one_seed_has_no_interval_and_no_verdict():
    summary = summarize([0.8])
    assert (summary.mean, summary.sd, summary.interval) == (0.8, None, None)
    difference = paired_difference({0: 0.8}, {0: 0.7})
    assert difference is not None
    assert difference.interval is None
    assert difference.within_noise is None


def test_no_values_are_an_error():
    with pytest.raises(ValueError, match="Leave a row without results out"):
        summarize([])


def test_paired_difference_is_scipys_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.8, 0.1, 7), rng.normal(0.7, 0.1, 7)
    difference = paired_difference(dict(enumerate(a)), dict(enumerate(b)))
    expected = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    assert difference is not None
    assert difference.interval == pytest.approx((expected.low, expected.high))


def test_luck_that_a_seed_brings_to_both_rows_cancels():
    luck = np.random.default_rng(0).normal(0, 0.3, 5)
    reference = dict(enumerate(luck))
    better = dict(enumerate(luck + 0.01 + 1e-4 * np.arange(5)))
    difference = paired_difference(better, reference)
    assert difference is not None
    assert difference.within_noise is False


def test_only_seeds_in_both_rows_are_compared():
    difference = paired_difference({0: 1.0, 1: 0.5, 2: 0.5}, {1: 0.4, 2: 0.4, 3: 0.0})
    assert difference is not None
    assert difference.num_seeds == 2
    assert difference.mean == pytest.approx(0.1)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_bootstrap_is_that_of_drawing_seeds_and_items_one_by_one():
    rng = np.random.default_rng(0)
    reference = rng.random((5, 400)) < 0.8
    correct = reference ^ (rng.random((5, 400)) < 0.1)
    difference = correct.astype(float) - reference
    draws = []
    for _ in range(4000):
        seeds = rng.integers(0, 5, 5)
        items = rng.integers(0, 400, 400)
        draws.append(difference[np.ix_(seeds, items)].mean())
    expected = np.quantile(draws, [0.025, 0.975])
    found = bootstrap_difference(correct, reference)
    # 4000 draws: the 2.5 % quantile of a normal has a standard error of 0.04 sd.
    assert found == pytest.approx(expected, abs=6 * 0.04 * np.std(draws))


def test_bootstrap_is_the_same_every_time_and_none_for_one_seed():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 3, 100)) < 0.8
    assert bootstrap_difference(a, b) == bootstrap_difference(a, b)
    assert bootstrap_difference(a[:1], b[:1]) is None


def test_equal_rows_differ_by_nothing():
    correct = np.random.default_rng(0).random((3, 50)) < 0.5
    assert bootstrap_difference(correct, correct) == (0.0, 0.0)
