"""What a phone gets: size, speed and word errors of the exported speech models.

python -m experiments.speech_phone runs/speech

Latencies are interleaved, of a second of sound; words are those of 20 recordings of
several digits each, put together from the official test recordings.
"""

import gzip
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

import compress
from compress.compare import cell_folder
from compress.machine import describe_machine
from compress.report import load_compare, measure_latency
from experiments.readme import replace
from experiments.tasks import spoken_digits
from experiments.tasks.speech import TEST
from experiments.transcribe import transcribe, word_errors

_RESULTS = pathlib.Path(__file__).parent / "RESULTS.md"
_ROUNDS = 200
# What one starts from: ratios are to it.
_BEFORE = "large"
# Recordings of several digits: how many, and how much noise under the loudest sample.
_SEQUENCES, _NOISE = 20, 10 ** (-45 / 20)


def spoken_sequences(count: int = _SEQUENCES) -> Iterator[tuple[list[str], np.ndarray]]:
    """Four to eight test recordings of one speaker each, with pauses and noise.

    Yields:
      The words, and samples in [-1, 1).
    """
    data, rng = spoken_digits.load(), np.random.default_rng(0)
    for number in range(count):
        speaker = number % len(spoken_digits.SPEAKERS)
        rows = (data["speaker"] == speaker) & np.isin(data["index"], TEST)
        chosen = rng.choice(np.flatnonzero(rows), rng.integers(4, 9))
        parts = []
        for row in chosen:
            pause = int(rng.uniform(0.2, 0.5) * spoken_digits.RATE)
            parts += [np.zeros(pause), np.trim_zeros(data["x"][row]) / 2.0**15]
        sound = np.concatenate([*parts, np.zeros(pause)])
        noise = rng.normal(size=len(sound)) * np.abs(sound).max() * _NOISE
        words = [spoken_digits.WORDS[data["y"][row]] for row in chosen]
        yield words, (sound + noise).astype(np.float32)


def word_error_rate(artifact: compress.Artifact) -> float:
    """Wrong, missing and added words of `spoken_sequences`, per word said."""
    errors = said = 0
    for words, samples in spoken_sequences():
        heard = transcribe(artifact, samples, spoken_digits.RATE)
        errors += word_errors(words, [word.text for word in heard])
        said += len(words)
    return errors / said


def measured(artifacts: dict[str, compress.Artifact]) -> dict[str, dict[str, Any]]:
    """Sizes, latency and word errors, by row."""
    x = jax.device_put(spoken_digits.load()["x"][:1])
    runs = {row: artifact.function(1) for row, artifact in artifacts.items()}
    calls = {row: (lambda run=run: run(x)) for row, run in runs.items()}
    latency = measure_latency(calls, repetitions=_ROUNDS)
    return {
        row: {
            **_sizes(artifact.path, artifact.manifest["programs"]["static"]),
            **latency["entries"][row],
            "word_errors": word_error_rate(artifact),
        }
        for row, artifact in artifacts.items()
    }


def _sizes(folder: pathlib.Path, program: Any) -> dict[str, int]:
    """Bytes of what runs on a phone: weights, and the programs for one recording."""
    weights = (folder / "weights.safetensors").read_bytes()
    programs = b"".join((folder / program[p]).read_bytes() for p in ("prepare", "file"))
    return {
        "weights": len(weights),
        "programs": len(programs),
        "compressed": len(gzip.compress(weights)) + len(gzip.compress(programs)),
    }


def table(rows: dict[str, dict[str, Any]], accuracy: dict[str, float]) -> list[str]:
    """A row for each artifact; ratios are to the first one."""
    first = next(iter(rows.values()))
    lines = [
        "| | Accuracy % | Weights, bytes | Weights and program, gzip | "
        "One second of sound | Real-time factor | Word errors |",
        "|---" + "|---:" * 6 + "|",
    ]
    for row, found in rows.items():
        smaller = first["weights"] / found["weights"]
        lines.append(
            f"| {row} | {100 * accuracy[row]:.2f} | {found['weights']:,} "
            f"({smaller:.1f}x smaller) | {found['compressed']:,} | "
            f"{found['median_us']:,.0f} µs ({1 / found['paired_ratio']:.1f}x faster) | "
            f"{found['median_us'] / 1e6:.1e} | {100 * found['word_errors']:.1f} % |"
        )
    return lines


def main(runs: str, *names: str) -> None:
    """Puts the section into RESULTS.md; all rows if no names are given."""
    comparison = load_compare(runs)
    seed, folder = comparison.seeds[0], pathlib.Path(runs)
    accuracy = {c.row: c.score for c in comparison.cells if c.seed == seed}
    rows = names or sorted(accuracy, key=lambda row: row != _BEFORE)
    artifacts = {
        row: compress.load(folder / cell_folder(row, seed) / "artifact") for row in rows
    }
    machine = describe_machine()
    text = [
        f"On a phone, as measured on {machine['cpu']}, {machine['num_usable_cpus']} "
        f"cores, jax {machine['jax']}: the artifacts of seed {seed}. One second of "
        f"sound at a time, front end included, {_ROUNDS} rounds with the rows in turn. "
        f"Word errors are those of {_SEQUENCES} recordings of four to eight digits.\n",
        *table(measured(artifacts), accuracy),
    ]
    _RESULTS.write_text(replace(_RESULTS.read_text(), "speech_phone", "\n".join(text)))


if __name__ == "__main__":
    main(*sys.argv[1:])
