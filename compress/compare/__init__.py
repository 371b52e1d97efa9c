"""Compare: combinations of techniques and seeds, trained, shipped and measured."""

from compress.compare.cell import CellError as CellError
from compress.compare.cell import run_cell as run_cell
from compress.compare.grid import cell_folder as cell_folder
from compress.compare.grid import compare as compare
