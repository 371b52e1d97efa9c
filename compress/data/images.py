"""Images in a folder or archive, one folder per class."""

import functools
import hashlib
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compress.data.files import File, Unreadable, find_files, usable
from compress.data.source import DataError, Source
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

    Every file is opened once, so that a broken one is found before training.

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
    open_image = functools.partial(_open, image, size)
    shapes, skipped = usable(
        find_files(path, _SUFFIXES),
        lambda data: open_image(data).shape,
        where=path,
        unreadable=unreadable,
    )
    _check_sizes(path, shapes)
    files = list(shapes)
    names = tuple(classes) if classes else tuple(sorted({_class(f) for f in files}))
    _check_classes(path, files, names)
    labels = [names.index(_class(file)) for file in files]

    def read(index: int) -> dict[str, np.ndarray]:
        x = open_image(files[index].read())
        return {"x": x, "y": np.asarray(labels[index], np.int32)}

    return Source(read, len(files), fingerprint(files, size, names), skipped)


def fingerprint(files: Sequence[File], *settings: Any) -> str:
    """SHA-256 of the names and sizes of files, and of how they are read."""
    listed = repr([(file.name, file.size) for file in files])
    return hashlib.sha256(f"{listed}{settings}".encode()).hexdigest()


def _open(image: Any, size: tuple[int, int] | None, data: bytes) -> np.ndarray:
    with image.open(io.BytesIO(data)) as opened:
        rgb = opened.convert("RGB")
        return np.asarray(rgb if size is None else rgb.resize((size[1], size[0])))


def _class(file: File) -> str:
    return pathlib.PurePosixPath(file.name).parent.name


def _check_classes(path: Any, files: Sequence[File], names: Sequence[str]) -> None:
    strange = sorted({_class(file) for file in files} - set(names))
    if strange or "" in names:
        raise DataError(
            f"{path}: images lie in {strange or 'no folder'}, which is not among the "
            f"classes {list(names)}. Put each into a folder named like its class."
        )


def _check_sizes(path: Any, shapes: Mapping[File, tuple[int, ...]]) -> None:
    first, *others = shapes.items()
    for file, shape in others:
        if shape != first[1]:
            raise DataError(
                f"{path}: {file.name} is {shape[:2]}, {first[0].name} {first[1][:2]}. "
                "Give size=(height, width) to resize all of them."
            )
