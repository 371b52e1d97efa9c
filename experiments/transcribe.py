"""Transcribes words spoken one after the other, offline, with an exported artifact.

python -m experiments.transcribe runs/speech/P50+QAT-seed0/artifact numbers.wav

A word is what is louder than the pauses around it, which is right for digits in a quiet
room and wrong for fluent speech.
"""

import sys
import time
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import compress
from compress.audio import conversion, fitted, read_wav

_FRAME = 0.02
# Of the way from the quietest to the loudest frames, in decibels; the closure before a
# t or k is as long as _CLOSURE, a click shorter than _SHORTEST.
_THRESHOLD = 0.35
_CLOSURE, _SHORTEST, _MARGIN = 0.14, 0.08, 0.06
# Recordings whose loudest frames are nearer to the quietest hold no words.
_LEAST_CONTRAST = 10.0


class Word(NamedTuple):
    """A word that was heard.

    Attributes:
      text: Which one.
      start: In seconds.
      end: In seconds.
    """

    text: str
    start: float
    end: float


def transcribe(
    artifact: compress.Artifact, samples: np.ndarray, rate: int
) -> list[Word]:
    """The words of a recording.

    Args:
      artifact: With names of classes and a sample rate.
      samples: `[n]`, in [-1, 1).
      rate: Samples per second.

    Raises:
      ValueError: If the artifact takes no sound, or of another rate.
    """
    manifest = artifact.manifest
    names, wanted = manifest.get("classes"), manifest.get("sample_rate")
    if names is None or wanted is None:
        raise ValueError(
            f"{artifact.path}: its classes have no names, or no sample rate."
        )
    if rate != wanted:
        raise ValueError(f"{rate:,} samples per second; the artifact takes {wanted:,}.")
    spec = manifest["inputs"][0]
    length, dtype = spec["shape"][1], jnp.dtype(spec["dtype"])
    spans = segments(samples, rate, longest=length / rate)
    if not spans:
        return []
    cuts = [samples[int(a * rate) : int(b * rate)][:length] for a, b in spans]
    batch = np.stack([fitted(cut, length, dtype) for cut in cuts])
    best = np.asarray(artifact(jnp.asarray(batch))).argmax(-1)
    return [Word(names[i], *span) for i, span in zip(best, spans, strict=True)]


def segments(
    samples: np.ndarray, rate: int, longest: float
) -> list[tuple[float, float]]:
    """Where words are, in seconds; none is longer than `longest`."""
    size = int(_FRAME * rate)
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    level = 10 * np.log10(np.mean(frames.astype(np.float64) ** 2, 1) + 1e-10)
    if not len(level):
        return []
    quiet, loud = np.percentile(level, [5, 98])
    if loud - quiet < _LEAST_CONTRAST:
        return []
    runs = _runs(level > quiet + _THRESHOLD * (loud - quiet))
    joined = _joined(runs, round(_CLOSURE / _FRAME))
    kept = [run for run in joined if run[1] - run[0] >= _SHORTEST / _FRAME]
    limit = round((longest - 2 * _MARGIN) / _FRAME)
    cut = [part for run in kept for part in _cut(level, *run, limit)]
    end = len(samples) / rate
    return [
        (max(0.0, a * _FRAME - _MARGIN), min(end, b * _FRAME + _MARGIN)) for a, b in cut
    ]


def _runs(active: np.ndarray) -> list[tuple[int, int]]:
    """Start and end of each stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], active.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _joined(runs: list[tuple[int, int]], gap: int) -> list[tuple[int, int]]:
    """Neighbours less than `gap` apart are one."""
    joined: list[tuple[int, int]] = []
    for start, end in runs:
        if joined and start - joined[-1][1] < gap:
            start = joined.pop()[0]
        joined.append((start, end))
    return joined


def _cut(level: np.ndarray, start: int, end: int, limit: int) -> list[tuple[int, int]]:
    """What is too long for one word, cut at the quietest places of its middles."""
    if end - start <= limit:
        return [(start, end)]
    third = (end - start) // 3
    at = start + third + int(np.argmin(level[start + third : end - third]))
    return [*_cut(level, start, at, limit), *_cut(level, at, end, limit)]


def word_errors(said: list[str], heard: list[str]) -> int:
    """Fewest words to replace, leave out or add (Levenshtein's distance)."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, 1):
        before, row = row, [i]
        for j, other in enumerate(heard, 1):
            replaced = before[j - 1] + (word != other)
            row.append(min(replaced, before[j] + 1, row[-1] + 1))
    return row[-1]


def main(artifact_path: str, wav: str) -> None:
    """Prints the words of a .wav file, and how long it took to hear them."""
    artifact = compress.load(artifact_path)
    samples, rate = read_wav(wav)
    wanted = artifact.manifest.get("sample_rate")
    if wanted not in (None, rate):
        raise ValueError(f"{wav}: {rate:,} per second. {conversion(wav, wanted)}")
    words = transcribe(artifact, samples, rate)  # compiles
    started = time.perf_counter()
    words = transcribe(artifact, samples, rate)
    seconds, spoken = time.perf_counter() - started, len(samples) / rate
    for word in words:
        print(f"{word.start:7.2f} to {word.end:.2f} s  {word.text}")
    print(" ".join(word.text for word in words) or "(nothing was said)")
    print(
        f"{spoken:.2f} s of sound in {1e3 * seconds:.1f} ms: real-time factor "
        f"{seconds / spoken:.2g}"
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("python -m experiments.transcribe ARTIFACT FILE.wav")
    try:
        main(*sys.argv[1:])
    except (ValueError, OSError) as error:
        raise SystemExit(f"transcribe: {error}") from None
