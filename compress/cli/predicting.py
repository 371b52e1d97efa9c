"""predict: an artifact on arrays or on a recording."""

import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from compress.audio import conversion, fitted, read_wav
from compress.cli import flags
from compress.cli.arrays import check_output, read_input, write_output
from compress.export import Artifact, ArtifactError, load
from compress.sites import parameter_paths

_SHOWN = 40
_TIMED_CALLS = 5


def predict(artifact_path: str, *input_paths: str) -> int:
    """Runs an artifact on inputs from .npy files, or on a .wav file."""
    started = time.perf_counter()
    artifact = load(artifact_path)
    output = pathlib.Path(flags.OUTPUT.value) if flags.OUTPUT.value else None
    if output is not None:
        check_output(output, len(artifact.manifest["outputs"]))
    if any(path.lower().endswith(".wav") for path in input_paths):
        arrays = _hear(artifact, input_paths, started)
    else:
        arrays = _compute(artifact, [read_input(path) for path in input_paths])
    if output is not None:
        write_output(output, arrays)
    return 0


def _compute(artifact: Artifact, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs for arrays, printed."""
    started = time.perf_counter()
    outputs = jax.block_until_ready(artifact(*inputs))
    seconds = time.perf_counter() - started
    arrays = {name: np.asarray(x) for name, x in parameter_paths(outputs).items()}
    names = artifact.manifest.get("classes")
    for array in arrays.values():
        print(np.array2string(array, threshold=_SHOWN, precision=4))
        if array.ndim == 2:
            largest = array.argmax(-1)[:_SHOWN]
            print("largest:", *(names[i] if names else i for i in largest))
    print(f"{len(inputs[0])} items in {1e3 * seconds:.1f} ms, compilation included")
    return arrays


def _hear(
    artifact: Artifact, paths: Sequence[str], started: float
) -> dict[str, np.ndarray]:
    """The outputs for a recording, and how long it took, printed."""
    x, spoken = _recording(artifact, paths)
    run = artifact.function(1)
    jax.block_until_ready(run(x))
    ready = time.perf_counter() - started
    seconds = []
    for _ in range(_TIMED_CALLS):
        begun = time.perf_counter()
        outputs = jax.block_until_ready(run(x))
        seconds.append(time.perf_counter() - begun)
    arrays = {name: np.asarray(y) for name, y in parameter_paths(outputs).items()}
    for array in arrays.values():
        _say(array[0], artifact.manifest)
    took = float(np.median(seconds))
    print(
        f"{spoken:.2f} s of sound in {1e3 * took:.2f} ms: real-time factor "
        f"{took / spoken:.2g} (loaded and compiled in {ready:.1f} s)"
    )
    return arrays


def _recording(artifact: Artifact, paths: Sequence[str]) -> tuple[jax.Array, float]:
    """A .wav file as the artifact takes it, and its seconds.

    Raises:
      ArtifactError: If the artifact takes no sound, or no such sound.
    """
    wanted, specs = artifact.manifest.get("sample_rate"), artifact.manifest["inputs"]
    if wanted is None:
        spec = specs[0]
        raise ArtifactError(
            f"{artifact.path}: takes no sound, but {spec['dtype']} {spec['shape']}. "
            "Give a .npy file."
        )
    if len(paths) > 1:
        raise ArtifactError(f"{artifact.path}: takes one .wav file, got {len(paths)}.")
    path, length = paths[0], specs[0]["shape"][1]
    samples, rate = read_wav(path)
    if rate != wanted:
        raise ArtifactError(
            f"{path}: {rate:,} samples per second; the artifact takes {wanted:,}. "
            f"{conversion(path, wanted)}"
        )
    if len(samples) > length:
        raise ArtifactError(
            f"{path}: {len(samples) / rate:.2f} s; the artifact takes up to "
            f"{length / rate:g} s. Cut out the word, with ffmpeg -i {path} -ss START "
            f"-t {length / rate:g} word.wav"
        )
    x = fitted(samples, length, jnp.dtype(specs[0]["dtype"]))
    return jnp.asarray(x[None]), len(samples) / rate


def _say(scores: np.ndarray, manifest: Mapping[str, Any]) -> None:
    """The class with the highest score, and the ones after it."""
    if scores.ndim != 1:
        print(np.array2string(scores, threshold=_SHOWN, precision=4))
        return
    names = manifest.get("classes") or range(len(scores))
    best = [f"{names[i]} {scores[i]:.2f}" for i in np.argsort(-scores)[:3]]
    print(f"{names[int(scores.argmax())]}\nscores: {', '.join(best)}")
