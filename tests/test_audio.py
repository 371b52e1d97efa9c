"""Reading .wav files: every PCM width, and every kind of wrong file."""

import pathlib
import wave

import numpy as np
import pytest

from compress.audio import fitted, read_wav


def write(path: pathlib.Path, data: bytes, width: int, channels: int = 1) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(8000)
        file.writeframes(data)


def encoded(values: np.ndarray, width: int) -> bytes:
    """Integers of `width` bytes as PCM holds them."""
    if width == 1:
        return (values + 128).astype(np.uint8).tobytes()
    wide = values.astype("<i4").reshape(-1, 1).view(np.uint8)
    return np.ascontiguousarray(wide[:, :width]).tobytes()


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_every_width_is_read_as_the_number_it_stands_for(
    width: int, tmp_path: pathlib.Path
) -> None:
    limit = 2 ** (8 * width - 1)
    whole = np.array([-limit, -limit // 2, -1, 0, 1, limit // 3, limit - 1], np.int64)
    write(tmp_path / "a.wav", encoded(whole, width), width)
    samples, rate = read_wav(tmp_path / "a.wav")
    assert rate == 8000 and samples.dtype == np.float32
    np.testing.assert_allclose(samples, whole / limit, atol=2**-24)  # float32


def test_sixteen_bits_come_back_as_they_are(tmp_path: pathlib.Path) -> None:
    whole = np.arange(-(2**15), 2**15, dtype=np.int64)
    write(tmp_path / "a.wav", encoded(whole, 2), 2)
    samples, _ = read_wav(tmp_path / "a.wav")
    again = fitted(samples, 2**16, np.int16)
    np.testing.assert_array_equal(again, whole.astype(np.int16))


def test_channels_are_averaged(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "a.wav", encoded(np.array([100, 300, -8, 8]), 2), 2, channels=2)
    samples, _ = read_wav(tmp_path / "a.wav")
    np.testing.assert_allclose(samples * 2**15, [200, 0])


def test_a_short_recording_is_put_in_the_middle() -> None:
    samples = np.full(4, 0.5, np.float32)
    np.testing.assert_array_equal(
        fitted(samples, 8, np.float32), np.array([0, 0, 1, 1, 1, 1, 0, 0]) / 2
    )
    assert fitted(samples, 8, np.int16).tolist() == [0, 0, *[16384] * 4, 0, 0]
    with pytest.raises(ValueError, match="4 samples; at most 3 fit"):
        fitted(samples, 3, np.int16)


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (b"", "not a PCM .wav file .* Convert it: ffmpeg -i .*a.wav -ac 1"),
        (b"ID3 an mp3 with another name" * 9, "not a PCM .wav file"),
        (b"RIFF\x24\x00\x00\x00WAVE", "not a PCM .wav file"),
        ("float", r"not a PCM .wav file \(unknown format: 3\)"),
        ("empty", "is empty. Record it again"),
        ("silent", "is silent: all samples are equal"),
        ("cut", "holds 30 samples and announces 40. Copy it again"),
    ],
)
def test_a_wrong_file_is_explained(
    content: bytes | str, remedy: str, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "a.wav"
    write(path, encoded(np.arange(40 if content != "empty" else 0), 2), 2)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "silent":
        write(path, bytes(80), 2)
    elif content == "float":
        whole = bytearray(path.read_bytes())
        whole[20] = 3  # the format: IEEE float
        path.write_bytes(whole)
    elif content == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=remedy):
        read_wav(path)
