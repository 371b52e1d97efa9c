"""Free Spoken Digit Dataset: 3,000 recordings of ten digits by six speakers, 8 kHz.

Source: https://github.com/Jakobovski/free-spoken-digit-dataset (CC BY-SA 4.0).
Decoded once, then read from a cache.
"""

import io
import os
import pathlib
import tarfile
import wave

import numpy as np

from experiments.data import cache_folder, data_file

RATE = 8000
SAMPLES = RATE
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
WORDS = (
    *("zero", "one", "two", "three", "four"),
    *("five", "six", "seven", "eight", "nine"),
)
_ARCHIVE = "spoken_digits_wav.tar.xz"


def load() -> dict[str, np.ndarray]:
    """All recordings, in the order of their names.

    Returns:
      `x` `[n, 8000]` int16, the word in the middle of a second; `y` `[n]` int32, the
      digit; `speaker` `[n]` int32, of `SPEAKERS`; `index` `[n]` int32, 0 to 49.
    """
    archive = data_file(_ARCHIVE)
    # Another archive has another size: its recordings are not taken for these.
    cached = cache_folder() / f"spoken_digits-{archive.stat().st_size}.npz"
    if not cached.exists():
        _decode(archive, cached)
    with np.load(cached) as arrays:
        return {name: arrays[name] for name in ("x", "y", "speaker", "index")}


def _decode(archive: pathlib.Path, cached: pathlib.Path) -> None:
    rows = []
    with tarfile.open(archive) as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is not None and member.name.endswith(".wav"):
                digit, speaker, index = pathlib.Path(member.name).stem.split("_")
                key = (int(digit), SPEAKERS.index(speaker), int(index))
                rows.append((key, centred(_samples(content.read()))))
    rows.sort(key=lambda row: row[0])
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


def _samples(content: bytes) -> np.ndarray:
    with wave.open(io.BytesIO(content)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def centred(samples: np.ndarray) -> np.ndarray:
    """One second with a recording in the middle; of a longer one its loudest second."""
    if len(samples) > SAMPLES:
        energy = np.cumsum(np.append(0.0, samples.astype(np.float64) ** 2))
        start = int(np.argmax(energy[SAMPLES:] - energy[:-SAMPLES]))
        return samples[start : start + SAMPLES]
    before = (SAMPLES - len(samples)) // 2
    return np.pad(samples, (before, SAMPLES - len(samples) - before))
