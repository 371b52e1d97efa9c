"""Images in a folder or archive, one folder per class."""

import functools
import io
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from compress.data.files import Unreadable
from compress.data.folders import labelled_files
from compress.data.source import Source
from compress.extras import require

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def image_folder(
    path: str | pathlib.Path,
    *,
    size: tuple[int, int] | None = None,
    classes: Sequence[str] | None = None,
    unreadable: Unreadable = "refuse",
) -> Source:
    """Examples `{"x": uint8 [height, width, 3], "y": int32}` of `<class>/<name>.png`.

    Args:
      path: A folder, a zip or an uncompressed tar; also with folders above those of
        the classes, which are the last ones.
      size: `(height, width)` to resize to; None: all images have the same size.
      classes: In the order of their numbers; None takes the folders, sorted.
      unreadable: `refuse` or `skip` files that cannot be read.

    Raises:
      DataError: If there is nothing there, a file cannot be read, sizes differ, or a
        folder is not among `classes`.
      ImportError: Without pillow (the extra `data`).
    """
    image: Any = require("PIL.Image", user="image_folder", extra="data")
    return labelled_files(
        path,
        _SUFFIXES,
        functools.partial(_open, image, size),
        classes=classes,
        unreadable=unreadable,
        remedy="Give size=(height, width) to resize all of them.",
        settings=size,
    )


def _open(image: Any, size: tuple[int, int] | None, data: bytes) -> np.ndarray:
    with image.open(io.BytesIO(data)) as opened:
        rgb = opened.convert("RGB")
        return np.asarray(rgb if size is None else rgb.resize((size[1], size[0])))
