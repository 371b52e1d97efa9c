"""Reads speech from .wav files."""

import pathlib
import wave
from typing import Any

import numpy as np

# A 16-bit sample of this size is 1.0.
_FULL_SCALE = 2**15


def read_wav(path: str | pathlib.Path) -> tuple[np.ndarray, int]:
    """The samples of a .wav file, and how many there are in a second.

    Returns:
      `[n]` float32 in [-1, 1), channels averaged; and the rate.

    Raises:
      ValueError: If it is no PCM .wav file, is cut off, empty or silent.
    """
    with open(path, "rb") as file:
        return decode_wav(file, path)


def decode_wav(file: Any, path: str | pathlib.Path) -> tuple[np.ndarray, int]:
    """Like `read_wav`, of an open binary file; messages call it `path`."""
    try:
        with wave.open(file) as content:
            layout = content.getparams()
            data = content.readframes(layout.nframes)
    except (wave.Error, EOFError) as error:
        reason = str(error) or "it ends too early"
        raise ValueError(
            f"{path}: not a PCM .wav file ({reason}). {conversion(path)}"
        ) from None
    size = layout.nchannels * layout.sampwidth
    if len(data) < layout.nframes * size:
        raise ValueError(
            f"{path}: is cut off: it holds {len(data) // size:,} samples and announces "
            f"{layout.nframes:,}. Copy it again."
        )
    samples = _decoded(data, layout.sampwidth).reshape(-1, layout.nchannels).mean(1)
    if not len(samples) or samples.min() == samples.max():
        what = "silent: all samples are equal" if len(samples) else "empty"
        raise ValueError(f"{path}: is {what}. Record it again.")
    return samples.astype(np.float32), layout.framerate


def conversion(path: str | pathlib.Path, rate: int | None = None) -> str:
    """What makes a file readable, as a sentence."""
    options = f"-ar {rate} " if rate else ""
    return f"Convert it: ffmpeg -i {path} -ac 1 {options}-c:a pcm_s16le converted.wav"


def _decoded(data: bytes, width: int) -> np.ndarray:
    """PCM of 8 (unsigned), 16, 24 or 32 bits as numbers in [-1, 1)."""
    if width == 1:
        return np.frombuffer(data, np.uint8) / 128.0 - 1.0
    # Widened from the left, so that 24 bits are the upper ones of 32.
    given = np.frombuffer(data, np.uint8).reshape(-1, width)
    padded = np.pad(given, ((0, 0), (4 - width, 0)))
    return np.ascontiguousarray(padded).view("<i4")[:, 0] / 2.0**31


def fitted(samples: np.ndarray, length: int, dtype: np.dtype | type) -> np.ndarray:
    """Samples as a model takes them: in the middle of `length`, the rest silence.

    Args:
      samples: In [-1, 1).
      length: Of what the model takes.
      dtype: int16, or float32 for numbers in [-1, 1).

    Returns:
      `[length]`.

    Raises:
      ValueError: If there are more samples than that.
    """
    if len(samples) > length:
        raise ValueError(f"{len(samples):,} samples; at most {length:,} fit. Cut them.")
    before = (length - len(samples)) // 2
    padded = np.pad(samples, (before, length - len(samples) - before))
    if np.dtype(dtype) == np.float32:
        return padded.astype(np.float32)
    whole = np.round(padded.astype(np.float64) * _FULL_SCALE)
    return np.clip(whole, -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
