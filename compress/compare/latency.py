"""Latency of the artifacts of a comparison, measured side by side in one process."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from compress.compare.groups import cell_folder
from compress.config import Config
from compress.data import num_examples, rows
from compress.export import Artifact, ArtifactError, load
from compress.report import measure_latency, write_latency
from compress.task import load_task

LATENCY = "latency.json"


def measure_rows(
    config: Config, directory: pathlib.Path, seeds: Mapping[str, int]
) -> list[str]:
    """Writes `latency.json` for one artifact of each row.

    Args:
      config: Of the comparison.
      directory: Of the comparison.
      seeds: By row, that of the cell whose artifact is timed.

    Returns:
      A sentence about each artifact that cannot be used.
    """
    artifacts, notes = {}, []
    for row, seed in seeds.items():
        try:
            artifacts[row] = load(directory / cell_folder(row, seed) / "artifact")
        except (ArtifactError, OSError) as error:
            notes.append(f"{row}: the latency could not be measured: {error}")
    if not artifacts:
        return notes
    assert config.compare is not None
    task = load_task(config.task, config.data)
    reference = _float_row(artifacts, config.compare.reference)
    setting, results = config.compare.latency, {}
    for batch in setting.batches:
        wanted = np.arange(batch) % num_examples(task.test)
        inputs = task.inputs_of(rows(task.test, wanted))
        on_device = [jax.device_put(x) for x in inputs]
        calls = {row: _call(a, batch, on_device) for row, a in artifacts.items()}
        results[batch] = measure_latency(
            calls, reference=reference, repetitions=setting.repetitions
        )
    write_latency(directory, results)
    return notes


def _call(artifact: Artifact, batch: int, inputs: list[Any]) -> Any:
    function = artifact.function(batch)
    return lambda: function(*inputs)


def _float_row(artifacts: dict[str, Artifact], preferred: str) -> str:
    """The row that ratios are relative to: a float one, if there is any."""
    floating = [
        row
        for row, artifact in artifacts.items()
        if all(site["weight_bits"] == 32 for site in artifact.manifest["sites"])
    ]
    if preferred in floating:
        return preferred
    return floating[0] if floating else next(iter(artifacts))
