"""Puts the table of a comparison into README.md, between its markers.

python -m experiments.readme runs/digits
"""

import pathlib
import re
import sys

from compress.report import load_compare, render_table

_README = pathlib.Path(__file__).parents[1] / "README.md"
_MARKERS = re.compile(r"(<!-- table -->\n).*?(<!-- end of table -->)", re.DOTALL)


def main(runs: str) -> None:
    """Replaces the table with that of `runs`."""
    table = render_table(load_compare(runs), accountings=("dense", "bitmask"))
    text, count = _MARKERS.subn(lambda m: f"{m[1]}{table}\n{m[2]}", _README.read_text())
    if count != 1:
        raise SystemExit(f"{_README}: no <!-- table --> markers.")
    _README.write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
