"""Seeds in one program against seeds in processes, as text."""

from collections.abc import Mapping
from typing import Any


def section(result: Mapping[str, Any]) -> str:
    """A table of times, and how far the two ways are apart."""
    machine, seconds = result["machine"], result["seconds"]
    lines = [
        f"\n## {result['title']}\n",
        f"`python -m experiments.bench.seeds`; {machine['cpu']}, 2 cores, jax "
        f"{machine['jax']}. {result['num_seeds']} seeds of the demo's row "
        f"{result['row']}, from the config to the report; the teacher is trained "
        "beforehand. Processes: a `jax-compress run` for each seed, one to a core, "
        "then a `jax-compress compare` of what they left. Programs: one `jax-compress "
        "compare`.\n",
        "| case | seconds | throughput / processes |",
        "|---|---|---|",
    ]
    for name, value in seconds.items():
        gain = seconds["processes"] / value
        lines.append(f"| {name} | {value:.1f} | {gain:.1f}x |")
    return "\n".join([*lines, "", _differences(result["differences"])]) + "\n"


def _differences(found: Mapping[str, float]) -> str:
    return (
        f"Of all mask bits {found['masks']:.2%} differ from the run alone, the "
        f"parameters by {found['parameters']:.1e} of the largest (the median over "
        "seeds): products are summed in another order, and training makes rounding "
        f"grow. The accuracy differs by {100 * found['score']:+.2f} points on average "
        f"(standard error {100 * found['score_standard_error']:.2f})."
    )
