"""Leaving each speaker out: what is held out, and what the table says."""

import numpy as np
import pytest
from scipy import stats

from experiments import speakers
from experiments.tasks.spoken_digits import SPEAKERS


@pytest.mark.parametrize("name", SPEAKERS)
def test_each_speaker_is_held_out_in_turn(name):
    config = speakers.config_without(name)
    assert config.data == {"split": "speaker", "hold_out": name}
    assert config.seeds == (0,)
    assert "float" in [row.name for row in config.compare.rows]


def test_differences_are_paired_by_speaker():
    base = np.array([80.0, 90.0, 70.0, 60.0, 95.0, 85.0])
    lost = np.array([1.0, 2.0, 1.5, 0.5, 1.0, 3.0])
    scores = {"float": dict(enumerate(base)), "Q": dict(enumerate(base - lost))}
    text = speakers.table(scores)
    interval = stats.ttest_1samp(-lost, 0).confidence_interval(0.95)
    assert f"| 78.5 | -1.5 [{interval.low:.1f}, {interval.high:.1f}] |" in text
    assert "| float | 80.0 | 90.0 | 70.0 | 60.0 | 95.0 | 85.0 | 80.0 | — |" in text


def test_a_difference_of_either_sign_is_within_noise():
    base = dict.fromkeys(range(len(SPEAKERS)), 80.0)
    other = {number: 80.0 + (-1) ** number for number in base}
    assert "within noise" in speakers.table({"float": base, "Q": other})
