"""Transcription: where words are, what they are, and how many are wrong."""

import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import compress
from experiments.transcribe import segments, transcribe, word_errors
from tests.experiments.test_speech import NEEDS_DATA

RATE = 1000
ROOT = Path(__file__).parents[2]
# Words of this test: tones, with the Hertz of each.
TONES = {"low": 50, "high": 200}


def spoken(words: Any, pause: float = 0.3, noise: float = 1e-3) -> np.ndarray:
    """Tones of 0.3 s with pauses, in noise."""
    time = np.arange(int(0.3 * RATE)) / RATE
    parts = [np.zeros(int(pause * RATE))]
    for word in words:
        tone = np.sin(2 * np.pi * TONES[word] * time) * np.hanning(len(time))
        parts += [0.4 * tone, np.zeros(int(pause * RATE))]
    sound = np.concatenate(parts)
    sound = sound + noise * np.random.default_rng(0).normal(size=len(sound))
    return sound.astype(np.float32)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> compress.Artifact:
    """Tells tones from each other by how much neighbouring samples differ."""

    def forward(params: Any, x: Any) -> Any:
        rough = jnp.abs(x[:, 1:] - x[:, :-1]).mean(-1) / jnp.abs(x).mean(-1)
        away = jnp.abs(rough[:, None] - params["roughness"])
        return -away

    x = np.stack([np.pad(spoken([word], 0.05), 50) for word in TONES])
    return compress.export(
        tmp_path_factory.mktemp("tones") / "artifact",
        forward,
        {"roughness": np.array([[0.3, 1.2]], np.float32)},
        batches=[x],
        platforms=["cpu"],
        classes=list(TONES),
        sample_rate=RATE,
    )


def test_words_are_found_where_they_are() -> None:
    found = segments(spoken(["low"] * 3), RATE, longest=1.0)
    assert len(found) == 3
    for number, (start, end) in enumerate(found):
        middle = 0.3 + 0.15 + 0.6 * number
        assert abs((start + end) / 2 - middle) < 0.03
        assert 0.2 < end - start < 0.45


def test_a_closure_inside_a_word_does_not_cut_it_and_a_click_is_no_word() -> None:
    assert len(segments(spoken(["low", "low"], pause=0.08), RATE, longest=1.0)) == 1
    sound = spoken(["low", "high"], pause=0.6)
    sound[650:660] = 0.4
    assert len(segments(sound, RATE, longest=1.0)) == 2


def test_what_is_too_long_for_one_word_is_cut_where_it_is_quietest() -> None:
    found = segments(spoken(["low", "high"], pause=0.08), RATE, longest=0.6)
    assert len(found) == 2
    assert all(end - start <= 0.6 for start, end in found)
    assert abs(found[0][1] - 0.42) < 0.1  # between the two


def test_nothing_is_heard_in_nothing(artifact: compress.Artifact) -> None:
    assert segments(np.zeros(5, np.float32), RATE, longest=1.0) == []
    assert segments(spoken([], pause=2.0), RATE, longest=1.0) == []  # noise alone
    assert transcribe(artifact, np.zeros(5, np.float32), RATE) == []


def test_a_row_of_words_is_transcribed(artifact: compress.Artifact) -> None:
    words = ["low", "high", "high", "low", "high", "low", "low"]
    heard = transcribe(artifact, spoken(words), RATE)
    assert [word.text for word in heard] == words


def test_it_is_a_command(artifact: compress.Artifact, tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "said.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((spoken(["high", "low"]) * 2**15).astype("<i2").tobytes())

    def call(*arguments: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "experiments.transcribe", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    done = call(artifact.path, tmp_path / "said.wav")
    *words, text, time = done.stdout.splitlines()
    assert done.returncode == 0 and text == "high low" and len(words) == 2
    assert "real-time factor" in time
    done = call(artifact.path, artifact.path / "manifest.json")
    assert done.returncode == 1 and "transcribe: " in done.stderr
    assert "not a PCM .wav file" in done.stderr and "Traceback" not in done.stderr


def test_another_rate_is_refused(artifact: compress.Artifact) -> None:
    with pytest.raises(ValueError, match="8,000 samples per second; .* takes 1,000"):
        transcribe(artifact, spoken(["low"]), 8000)


@pytest.mark.parametrize(
    ("said", "heard", "errors"),
    [
        ("one two three", "one two three", 0),
        ("one two three", "one nine three", 1),
        ("one two three", "two three", 1),
        ("one two", "one five two two", 2),
        ("", "one", 1),
        ("one two", "", 2),
    ],
)
def test_errors_are_words_replaced_left_out_or_added(said, heard, errors) -> None:
    assert word_errors(said.split(), heard.split()) == errors


@NEEDS_DATA
def test_sequences_are_of_test_recordings_and_the_same_every_time() -> None:
    from experiments.speech_phone import spoken_sequences

    first, again = (list(spoken_sequences(6)) for _ in range(2))
    for (words, sound), (same, samples) in zip(first, again, strict=True):
        assert words == same and 4 <= len(words) <= 8
        np.testing.assert_array_equal(sound, samples)
        assert len(segments(sound, 8000, longest=1.0)) == len(words)


@NEEDS_DATA
@pytest.mark.slow
def test_a_trained_model_transcribes_most_words(tmp_path: Path) -> None:
    from compress.compare import run_cell
    from compress.config import load_config, row_config
    from experiments.speech_phone import word_error_rate

    short = ["stages[0].steps=200", "stages[1].steps=50", "stages[2].steps=100"]
    config = load_config(ROOT / "configs/speech.yaml", short)
    row = next(row for row in config.compare.rows if row.name == "P50+QAT")
    run_cell(row_config(config, row), tmp_path, seed=0, teachers=tmp_path, quiet=True)
    # 3 % after the config's own steps.
    assert word_error_rate(compress.load(tmp_path / "artifact")) < 0.2
