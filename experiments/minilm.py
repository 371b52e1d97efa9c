"""What compressed sentence embeddings are still good for, beyond their cosine.

Runs every artifact of a comparison on its test sentences, and puts a table into
RESULTS.md: does the similarity of pairs keep its order (Spearman), and are a sentence's
ten nearest neighbours still the same (recall@10)?

    jax-compress compare configs/minilm.yaml --data_dir=shared/data
    python -m experiments.readme runs/minilm experiments/RESULTS.md minilm
    python -m experiments.minilm runs/minilm
"""

import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

import compress
from compress.compare.grid import cell_folder
from compress.machine import describe_machine
from compress.task import load_task
from experiments.readme import replace
from experiments.tasks.minilm.scores import (
    mean_cosine,
    neighbour_recall,
    similarity_spearman,
)

_RESULTS = pathlib.Path(__file__).parent / "RESULTS.md"
_COLUMNS = {
    "cosine": mean_cosine,
    "Spearman of similarities": similarity_spearman,
    "recall@10": neighbour_recall,
}
# Row to its numbers, in the order of `_COLUMNS`.
Scores = Mapping[str, list[float]]


def scores_of(runs: pathlib.Path) -> Scores:
    """The scores of the first seed's artifact of every row that is finished.

    Raises:
      FileNotFoundError: If no row is.
    """
    config = json.loads((runs / "config.json").read_text())
    task = load_task(config["task"], config["data"])
    found = {}
    for row in config["compare"]["rows"]:
        folder = runs / cell_folder(row["name"], config["seeds"][0])
        if (folder / "result.json").exists():
            embeddings = np.asarray(compress.load(folder / "artifact")(task.test["x"]))
            found[row["name"]] = [
                score(embeddings, task.test["y"]) for score in _COLUMNS.values()
            ]
    if not found:
        raise FileNotFoundError(
            f"{runs}: holds no finished row. Run `jax-compress compare` first."
        )
    return found


def section(scores: Scores, machine: Mapping[str, Any]) -> str:
    """The scores as a table."""
    lines = [
        f"| Row | {' | '.join(_COLUMNS)} |",
        "|---" + "|---:" * len(_COLUMNS) + "|",
    ]
    for row, values in scores.items():
        lines.append(f"| {row} | {' | '.join(f'{value:.4f}' for value in values)} |")
    told = f"Of the exported artifacts, run on {machine['cpu']}, jax {machine['jax']}."
    return "\n".join([*lines, "", told])


def main(runs: str) -> None:
    """Scores the artifacts of `runs` and writes their table."""
    table = section(scores_of(pathlib.Path(runs)), describe_machine())
    _RESULTS.write_text(replace(_RESULTS.read_text(), "minilm_neighbours", table))


if __name__ == "__main__":
    main(*sys.argv[1:])
