"""Puts generated tables into documents, between their markers.

python -m experiments.readme runs/digits
python -m experiments.readme runs/cifar_pruning BUILD_NOTES.md cifar_pruning
python -m experiments.readme runs/digits_pruning experiments/RESULTS.md digits_pruning
python -m experiments.readme runs/shakespeare experiments/RESULTS.md shakespeare
"""

import pathlib
import re
import sys

from compress.report import load_compare, render_table
from experiments.bench.peers import tables as peers_tables
from experiments.bench.results import load as load_benchmark

_ROOT = pathlib.Path(__file__).parents[1]


def main(runs: str, file: str = "README.md", name: str = "table") -> None:
    """Replaces a file's table of a comparison by that of `runs`; in README the peers'.

    Args:
      runs: Directory of the comparison.
      file: In the root of the project.
      name: Of the markers.
    """
    path = _ROOT / file
    table = render_table(load_compare(runs), accountings=("dense", "bitmask"))
    text = replace(path.read_text(), name, table)
    if file == "README.md":
        text = replace(text, "peers", peers_tables.summary(load_benchmark("peers")))
    path.write_text(text)


def replace(text: str, name: str, table: str) -> str:
    """`text` with another table between `<!-- name -->` and `<!-- end of name -->`."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
    text, count = re.subn(
        pattern, lambda m: f"{m[1]}{table}\n{m[2]}", text, flags=re.DOTALL
    )
    if count != 1:
        raise SystemExit(f"no <!-- {name} --> markers to put the table between.")
    return text


if __name__ == "__main__":
    main(*sys.argv[1:])
