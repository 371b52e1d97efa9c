"""The section on dry runs of RESULTS.md."""

from collections.abc import Mapping
from typing import Any

_FIGURES = {
    "weights_bytes": ("weights file, bytes", "{:,.0f}"),
    "program_bytes": ("programs, bytes", "{:,.0f}"),
    "macs": ("multiply-accumulates per example", "{:,.0f}"),
    "step_flops": ("FLOPs of a step (of contractions, by hand)", "{:,.0f}"),
    "peak_bytes": ("peak memory in training, bytes", "{:,.0f}"),
    "compile_seconds": ("compilation of the train step, s", "{:.2f}"),
}


def section(result: Mapping[str, Any]) -> str:
    """The section as Markdown."""
    machine = result["machine"]
    lines = [
        f"\n## {result['title']}\n",
        f"`python -m experiments.bench.dry_run`; {machine['cpu']}, "
        f"{machine['num_usable_cpus']} cores, jax {machine['jax']} on "
        f"{machine['backend']}; medians of {result['rounds']} rounds, every figure in "
        "a process of its own.\n",
        "| row | figure | predicted | measured | predicted / measured |",
        "|---|---|---|---|---|",
    ]
    for row, figures in result["entries"].items():
        for name, (title, shown) in _FIGURES.items():
            predicted, measured = figures[name]
            lines.append(
                f"| {row} | {title} | {shown.format(predicted)} | "
                f"{shown.format(measured)} | {predicted / measured:.2f} |"
            )
    return "\n".join(lines) + "\n"
