"""Free Spoken Digit Dataset: 3,000 recordings of ten digits by six speakers, 8 kHz.

Source: https://github.com/Jakobovski/free-spoken-digit-dataset (CC BY-SA 4.0).
Decoded once, then read from a cache.
"""

import functools
import io
import lzma
import os
import pathlib
import re
import tarfile

import numpy as np

from compress.audio import decode_wav
from compress.data.files import File, usable
from compress.data.source import DataError
from experiments.data import cache_folder, data_file

RATE = 8000
SAMPLES = RATE
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
WORDS = (
    *("zero", "one", "two", "three", "four"),
    *("five", "six", "seven", "eight", "nine"),
)
_ARCHIVE = "spoken_digits_wav.tar.xz"
_REMEDY = "The archive is damaged: get it again."


def load() -> dict[str, np.ndarray]:
    """All recordings, in the order of their names.

    Returns:
      `x` `[n, 8000]` int16, the word in the middle of a second; `y` `[n]` int32, the
      digit; `speaker` `[n]` int32, of `SPEAKERS`; `index` `[n]` int32, 0 to 49.

    Raises:
      DataError: If the archive is damaged; counts and names the broken files.
    """
    archive = data_file(_ARCHIVE)
    # Another archive has another size: its recordings are not taken for these.
    cached = cache_folder() / f"spoken_digits-{archive.stat().st_size}.npz"
    if not cached.exists():
        _decode(archive, cached)
    with np.load(cached) as arrays:
        return {name: arrays[name] for name in ("x", "y", "speaker", "index")}


def _decode(archive: pathlib.Path, cached: pathlib.Path) -> None:
    found, _ = usable(
        _files(archive), _samples, where=archive, unreadable="refuse", remedy=_REMEDY
    )
    rows = sorted(
        ((_key(file.name), centred(samples)) for file, samples in found.items()),
        key=lambda row: row[0],
    )
    names = np.array([key for key, _ in rows], np.int32)
    partial = cached.with_name(f"{cached.stem}.{os.getpid()}.partial.npz")
    np.savez(
        partial,
        x=np.stack([x for _, x in rows]),
        y=names[:, 0],
        speaker=names[:, 1],
        index=names[:, 2],
    )
    partial.rename(cached)


def _files(archive: pathlib.Path) -> list[File]:
    """The recordings, read at once: a compressed archive has no second place."""
    files = []
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                content = tar.extractfile(member)
                if content is not None and member.name.endswith(".wav"):
                    read = functools.partial(_named, member.name, content.read())
                    files.append(File(member.name, member.size, read))
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise DataError(f"{archive}: cannot be read ({error}). {_REMEDY}") from error
    if not files:
        raise DataError(f"{archive}: holds no .wav file. {_REMEDY}")
    return files


def _named(name: str, content: bytes) -> bytes:
    """The content of a file whose name says what it is."""
    _key(name)
    return content


def _key(name: str) -> tuple[int, int, int]:
    """Digit, speaker and index of `<digit>_<speaker>_<index>.wav`."""
    stem = pathlib.PurePosixPath(name).stem
    parts = re.fullmatch(rf"(\d)_({'|'.join(SPEAKERS)})_(\d+)", stem)
    if parts is None:
        raise ValueError(f"is not called <digit>_<one of {', '.join(SPEAKERS)}>_<n>")
    digit, speaker, index = parts.groups()
    return int(digit), SPEAKERS.index(speaker), int(index)


def _samples(content: bytes) -> np.ndarray:
    samples, rate = decode_wav(io.BytesIO(content), "this file")
    if rate != RATE:
        raise ValueError(f"has {rate} samples in a second, not {RATE}")
    return (samples * 2**15).astype(np.int16)


def centred(samples: np.ndarray) -> np.ndarray:
    """One second with a recording in the middle; of a longer one its loudest second."""
    if len(samples) > SAMPLES:
        energy = np.cumsum(np.append(0.0, samples.astype(np.float64) ** 2))
        start = int(np.argmax(energy[SAMPLES:] - energy[:-SAMPLES]))
        return samples[start : start + SAMPLES]
    before = (SAMPLES - len(samples)) // 2
    return np.pad(samples, (before, SAMPLES - len(samples) - before))
