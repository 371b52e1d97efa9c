"""Compare: every combination of techniques and every seed, trained, shipped, measured."""

from compress.compare.cell import CellError as CellError
from compress.compare.cell import run_cell as run_cell
from compress.compare.grid import compare as compare
