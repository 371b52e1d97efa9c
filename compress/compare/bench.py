"""Times an artifact against its float twin, side by side, on this machine."""

import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from compress.compare.rebuild import rebuild
from compress.export import Artifact, ArtifactError, export, load, read_packed
from compress.export.golden import read_golden, resized
from compress.export.manifest import program_files
from compress.export.probe import probe
from compress.export.scales import scales_of
from compress.interpret import Quantized, unbox
from compress.machine import describe_machine
from compress.report import measure_latency

OURS, TWIN = "artifact", "float twin"
# A fresh process takes seconds; three show the spread.
_PROCESSES = 3


def bench(
    path: str | pathlib.Path,
    *,
    twin: str | pathlib.Path | None = None,
    batches: Sequence[int] = (1, 32),
    rounds: int = 50,
) -> dict[str, Any]:
    """Measures latency, throughput, memory, cold start and bytes.

    Everything is interleaved with the float twin: the same network with the same
    weights, dequantized, exported in float from the config in the artifact.

    Args:
      path: Of the artifact.
      twin: A float artifact to compare with instead.
      batches: Batch sizes.
      rounds: Of timing; up to three of them start fresh processes.

    Returns:
      JSON-able: `machine`, `bytes` by name, and `batches`: size to name to figures.

    Raises:
      ArtifactError: If an artifact cannot be run, or the twin takes other inputs.
    """
    artifact = load(path)
    with _with_twin(artifact, twin) as artifacts:
        return {
            "machine": describe_machine(),
            "bytes": {name: _bytes(a) for name, a in artifacts.items()},
            "batches": {
                str(batch): _measure(artifacts, batch, rounds) for batch in batches
            },
        }


@contextlib.contextmanager
def _with_twin(
    artifact: Artifact, given: str | pathlib.Path | None
) -> Generator[dict[str, Artifact]]:
    """The artifact and its twin, by name; alone if it has no config."""
    if given is not None:
        twin = load(given)
        if twin.manifest["inputs"] != artifact.manifest["inputs"]:
            raise ArtifactError(
                f"{given}: takes {twin.manifest['inputs']}, {artifact.path} takes "
                f"{artifact.manifest['inputs']}. Give a twin with the same inputs."
            )
        yield {OURS: artifact, TWIN: twin}
    elif "config" in artifact.manifest:
        with tempfile.TemporaryDirectory() as folder:
            yield {OURS: artifact, TWIN: float_twin(artifact, pathlib.Path(folder))}
    else:
        yield {OURS: artifact}


def float_twin(artifact: Artifact, folder: pathlib.Path) -> Artifact:
    """Exports the network of an artifact in float, with its weights dequantized."""
    found = rebuild(artifact.path, artifact.manifest)
    packed = read_packed(artifact.path, found.params, found.model_state)
    weights = jax.tree.map(jax.numpy.asarray, packed.weights)
    boxed = packed.boxed(weights)
    is_box = lambda leaf: isinstance(leaf, Quantized)  # noqa: E731
    return export(
        folder / "twin",
        found.forward,
        jax.tree.map(unbox, boxed, is_leaf=is_box),
        model_state=packed.first_inputs(weights)[0],
        batches=[read_golden(artifact)["symbolic"][0]],
        input_scales=scales_of(artifact.manifest["inputs"]),
        platforms=[_platform()],
        static_batch=artifact.manifest["programs"]["static"]["batch"],
    )


def _platform() -> str:
    backend = jax.default_backend()
    return "cuda" if backend == "gpu" else backend


def _bytes(artifact: Artifact) -> dict[str, int]:
    files = artifact.manifest["files"]
    programs = program_files(artifact.manifest)
    return {
        "total": sum(entry["bytes"] for entry in files.values()),
        "weights": files["weights.safetensors"]["bytes"],
        "programs": sum(files[name]["bytes"] for name in programs),
    }


def _measure(
    artifacts: Mapping[str, Artifact], batch: int, rounds: int
) -> dict[str, dict[str, float]]:
    """The figures of each artifact at one batch size."""
    inputs = [
        jax.device_put(np.asarray(x))
        for x in resized(read_golden(artifacts[OURS])["symbolic"][0], batch)
    ]
    calls = {name: _call(a.function(batch), inputs) for name, a in artifacts.items()}
    timed = measure_latency(calls, reference=list(calls)[-1], repetitions=rounds)
    cold = _cold_starts(artifacts, batch, min(rounds, _PROCESSES))
    return {
        name: {**entry, "items_per_second": 1e6 * batch / entry["median_us"]}
        | cold[name]
        for name, entry in timed["entries"].items()
    }


def _call(function: Callable[..., Any], inputs: Sequence[Any]) -> Callable[[], Any]:
    return lambda: function(*inputs)


def _cold_starts(
    artifacts: Mapping[str, Artifact], batch: int, count: int
) -> dict[str, dict[str, float]]:
    """Medians over fresh processes, taken in turn."""
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in artifacts}
    for _ in range(count):
        for name, artifact in artifacts.items():
            seen[name].append(_in_a_process(artifact, batch))
    return {
        name: {key: float(np.median([run[key] for run in runs])) for key in runs[0]}
        for name, runs in seen.items()
    }


def _in_a_process(artifact: Artifact, batch: int) -> dict[str, float]:
    command = [sys.executable, "-m", probe.__module__, str(artifact.path), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ArtifactError(
            f"{artifact.path}: cannot be run in a process of its own: "
            f"{done.stderr.strip()[-500:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])
