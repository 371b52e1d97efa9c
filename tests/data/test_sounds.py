"""Folders of recordings become examples."""

import pathlib
import wave

import numpy as np
import pytest

from compress.data import DataError, rows, wav_folder


def write_wav(path: pathlib.Path, samples: np.ndarray, rate: int = 8000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())


def test_recordings_lie_in_the_middle_of_an_example(tmp_path: pathlib.Path) -> None:
    low, high = np.array([1, -2, 3]), np.array([32767, -32768])
    write_wav(tmp_path / "no/a.wav", low)
    write_wav(tmp_path / "yes/b.wav", high)
    batch = rows(wav_folder(tmp_path, length=6, sample_rate=8000), [0, 1])
    assert batch["x"].dtype == np.int16
    np.testing.assert_array_equal(
        batch["x"], [[0, 1, -2, 3, 0, 0], [0, 0, 32767, -32768, 0, 0]]
    )
    np.testing.assert_array_equal(batch["y"], [0, 1])


def test_recordings_that_do_not_fit_are_named_or_skipped(
    tmp_path: pathlib.Path,
) -> None:
    write_wav(tmp_path / "no/good.wav", np.arange(4))
    write_wav(tmp_path / "no/long.wav", np.arange(9))
    write_wav(tmp_path / "no/other.wav", np.arange(4), rate=16000)
    (tmp_path / "no/text.wav").write_text("no sound")
    with pytest.raises(DataError, match="3 of 4 files cannot be read") as refusal:
        wav_folder(tmp_path, length=6, sample_rate=8000)
    for line in ("long.wav: 9 samples", "has 16000 samples", "not a PCM .wav"):
        assert line in str(refusal.value)
    source = wav_folder(tmp_path, length=6, sample_rate=8000, unreadable="skip")
    assert len(source) == 1 and len(source.skipped) == 3
