"""What a plot is to the page and to the PNG files.

Sizes are in pixels and fixed, so that the place of every name can be computed here:
each plot comes in a wide and a narrow version and the page shows the one that fits.
"""

import dataclasses
from typing import Any

Spec = dict[str, Any]  # one Vega-Lite specification

WIDE, NARROW = (600, 380), (258, 380)


@dataclasses.dataclass(frozen=True)
class Plot:
    """One plot, in one of its views.

    Attributes:
      name: File name without the ending.
      title: What it shows, for the reader and the PNG.
      view: What tells it from the other views of its figure, `zlib`.
      wide: For a screen.
      narrow: For a phone.
    """

    name: str
    title: str
    view: str
    wide: Spec
    narrow: Spec


@dataclasses.dataclass(frozen=True)
class Figure:
    """A place on the page: one plot, or several to choose from.

    Attributes:
      name: Identifier on the page.
      title: Heading.
      caption: How to read it.
      plots: Its views; empty if there is nothing to show.
    """

    name: str
    title: str
    caption: str
    plots: tuple[Plot, ...]
