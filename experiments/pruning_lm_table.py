"""The result of `pruning_lm.py` as markdown, in RESULTS.md."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.readme import replace

_RESULTS = pathlib.Path(__file__).parent / "RESULTS.md"


def write_table(result: Mapping[str, Any]) -> None:
    """Puts the section into RESULTS.md, between its markers."""
    text = _RESULTS.read_text()
    _RESULTS.write_text(replace(text, "pruning_lm", section(result)))


def section(result: Mapping[str, Any]) -> str:
    """What was done, a table of losses, and who wins."""
    machine, losses = result["machine"], list(result["losses"].values())
    patterns = [name for name in losses[0] if name != "dense"]
    lines = [
        f"`python -m experiments.pruning_lm`; {machine['cpu']}, "
        f"{machine['num_usable_cpus']} cores, jax {machine['jax']}. A transformer of "
        f"{result['parameters']:,} parameters, {result['steps']} steps, then pruned "
        f"without training again; {result['calibration_characters']:,} characters of "
        "the training text for calibration. Loss in nats per character on the last "
        f"tenth of tinyshakespeare, mean ± standard deviation over {len(losses)} "
        "seeds. The head and the embeddings stay dense; integers are those of the "
        "weights alone. Sparsity shrinks the file; XLA does not get faster.\n",
        "Dense:\n",
        "| | loss |",
        "|---|---|",
        *[f"| {how} | {_spread(losses, 'dense', how)} |" for how in losses[0]["dense"]],
        "\nPruned:\n",
        "| | " + " | ".join(patterns) + " |",
        "|---" * (len(patterns) + 1) + "|",
    ]
    for how in losses[0][patterns[0]]:
        cells = [_spread(losses, pattern, how) for pattern in patterns]
        lines.append(f"| {how} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(_verdict(losses, p) for p in patterns)])


def _values(losses: Any, pattern: str, how: str) -> Any:
    return np.asarray([seed[pattern][how] for seed in losses])


def _spread(losses: Any, pattern: str, how: str) -> str:
    if how not in losses[0][pattern]:
        return "-"
    values = _values(losses, pattern, how)
    deviation = values.std(ddof=1) if len(values) > 1 else 0.0
    return f"{values.mean():.3f} ± {deviation:.3f}"


def _verdict(losses: Any, pattern: str) -> str:
    """Who beats whom, by the differences within each seed."""
    parts = []
    for better, worse in (
        ("Wanda", "magnitude"),
        ("Wanda, ranked in each layer", "magnitude"),
        ("second-order", "magnitude"),
        ("second-order", "Wanda"),
        ("second-order", "second-order, blocks of 128"),
        ("second-order, site after site", "second-order"),
        ("second-order with int4", "second-order, then int4"),
        ("second-order with int4", "magnitude, then int4"),
    ):
        if not {better, worse} <= losses[0][pattern].keys():
            continue
        gain = _values(losses, pattern, worse) - _values(losses, pattern, better)
        wins = int((gain > 0).sum())
        parts.append(
            f"{better} beats {worse} in {wins} of {len(gain)} seeds "
            f"(by {gain.mean():+.3f})"
        )
    return f"- {pattern}: " + "; ".join(parts) + "."
