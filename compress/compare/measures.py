"""What a search can look at in a finished cell."""

from compress.config import MEASURES
from compress.report import Cell, total_bops


def measures_of(cell: Cell) -> dict[str, float | None]:
    """The measures of a cell, by their names in `MEASURES`; None if not measured."""
    sizes = {f"{column}_bytes": size for column, size in cell.sizes.items()}
    found = {
        **vars(cell),
        **sizes,
        "bytes": cell.sizes["file"],
        "bops": total_bops(cell.sites),
    }
    return {name: found[name] for name in MEASURES}
