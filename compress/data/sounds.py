"""Recordings in a folder or archive, one folder per class."""

import functools
import io
import pathlib
from collections.abc import Sequence

import numpy as np

from compress.audio import decode_wav, fitted
from compress.data.files import Unreadable
from compress.data.folders import labelled_files
from compress.data.source import Source


def wav_folder(
    path: str | pathlib.Path,
    *,
    length: int,
    sample_rate: int,
    classes: Sequence[str] | None = None,
    unreadable: Unreadable = "refuse",
) -> Source:
    """Examples `{"x": int16 [length], "y": int32}` of `<class>/<name>.wav`.

    Args:
      path: A folder, a zip or an uncompressed tar.
      length: Samples of an example; shorter recordings lie in its middle.
      sample_rate: Of all recordings, in Hz.
      classes: In the order of their numbers; None takes the folders, sorted.
      unreadable: `refuse` or `skip` files that cannot be read, are longer, or have
        another rate.

    Raises:
      DataError: If there is nothing there, a file cannot be used, or a folder is not
        among `classes`.
    """
    return labelled_files(
        path,
        (".wav",),
        functools.partial(_samples, length, sample_rate),
        classes=classes,
        unreadable=unreadable,
        remedy="",
        settings=(length, sample_rate),
    )


def _samples(length: int, sample_rate: int, data: bytes) -> np.ndarray:
    samples, rate = decode_wav(io.BytesIO(data), "this file")
    if rate != sample_rate:
        raise ValueError(f"has {rate} samples in a second, not {sample_rate}")
    return fitted(samples, length, np.int16)
