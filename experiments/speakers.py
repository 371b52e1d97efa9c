"""Words of a speaker never heard: each of six is left out of training in turn.

    JAX_COMPRESS_DATA=shared/data python -m experiments.speakers runs/speakers

Trains the rows of configs/speech_published.yaml once per speaker, and puts a table into
RESULTS.md. The same command goes on where it was stopped.
"""

import pathlib
import sys
from collections.abc import Mapping

from compress.compare import compare
from compress.compare.grid import speaker as printer
from compress.config import Config, load_config
from compress.report import load_compare, paired_difference, summarize
from experiments.readme import replace
from experiments.tasks.spoken_digits import SPEAKERS

_ROOT = pathlib.Path(__file__).parents[1]
_CONFIG = _ROOT / "configs/speech_published.yaml"
_RESULTS = _ROOT / "experiments/RESULTS.md"
_REFERENCE = "float"
# Row, then the number of a speaker, to the accuracy on all of their recordings.
Scores = Mapping[str, Mapping[int, float]]


def config_without(speaker: str) -> Config:
    """Everything of one speaker is for the test; one seed."""
    return load_config(
        _CONFIG,
        [
            "data.split=speaker",
            f"data.hold_out={speaker}",
            "seeds=[0]",
            "compare.contrasts=[]",
        ],
    )


def scores_of(runs: pathlib.Path) -> Scores:
    """What was reached, by row and speaker."""
    found: dict[str, dict[int, float]] = {}
    for number, name in enumerate(SPEAKERS):
        for cell in load_compare(runs / name).cells:
            found.setdefault(cell.row, {})[number] = 100 * cell.score
    return found


def table(scores: Scores) -> str:
    """A line per row: accuracy in %, and the difference to float over speakers."""
    lines = [
        f"| Row | {' | '.join(SPEAKERS)} | Mean | Δ to {_REFERENCE} over speakers |",
        "|---" + "|---:" * (len(SPEAKERS) + 2) + "|",
    ]
    for row, by_speaker in scores.items():
        told = " | ".join(f"{by_speaker[i]:.1f}" for i in range(len(SPEAKERS)))
        mean = summarize(list(by_speaker.values())).mean
        difference = _difference(by_speaker, scores[_REFERENCE])
        shown = "—" if row == _REFERENCE else difference
        lines.append(f"| {row} | {told} | {mean:.1f} | {shown} |")
    return "\n".join(lines)


def _difference(values: Mapping[int, float], reference: Mapping[int, float]) -> str:
    found = paired_difference(values, reference)
    if found is None or found.interval is None:
        raise ValueError("speakers: one speaker in common gives no interval.")
    low, high = found.interval
    noise = " within noise" if low <= 0 <= high else ""
    return f"{found.mean:+.1f} [{low:.1f}, {high:.1f}]{noise}"


def main(directory: str) -> None:
    """Runs what is not finished, and writes the table."""
    runs, say = pathlib.Path(directory), printer()
    for number, name in enumerate(SPEAKERS):
        say(f"speaker {number + 1} of {len(SPEAKERS)}: {name}")
        if compare(config_without(name), runs / name):
            raise SystemExit(f"{runs / name}: a cell failed; see its error.json.")
    text = replace(_RESULTS.read_text(), "speakers", table(scores_of(runs)))
    _RESULTS.write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
