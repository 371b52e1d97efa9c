"""Examples in a folder or archive, one folder per class: `<class>/<name>`."""

import hashlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from compress.data.files import File, Unreadable, find_files, usable
from compress.data.source import DataError, Source


def labelled_files(
    path: str | pathlib.Path,
    suffixes: Sequence[str],
    decode: Callable[[bytes], np.ndarray],
    *,
    classes: Sequence[str] | None,
    unreadable: Unreadable,
    remedy: str,
    settings: Any,
) -> Source:
    """Examples `{"x": what a file decodes to, "y": int32}`.

    Every file is decoded once, so that a broken one is found before training.

    Args:
      path: A folder, a zip or an uncompressed tar.
      suffixes: Of the files.
      decode: Gives the array of a file.
      classes: In the order of their numbers; None takes the folders, sorted.
      unreadable: `refuse` or `skip` files that cannot be read.
      remedy: What to do if arrays have several shapes.
      settings: Of `decode`; they count among what tells data from others.

    Raises:
      DataError: If there is nothing there, a file cannot be read, shapes differ, or a
        folder is not among `classes`.
    """

    def examined(data: bytes) -> tuple[tuple[int, ...], str]:
        return decode(data).shape, hashlib.sha256(data).hexdigest()

    found, skipped = usable(
        find_files(path, suffixes), examined, where=path, unreadable=unreadable
    )
    shapes = {file: shape for file, (shape, _) in found.items()}
    _check_shapes(path, shapes, remedy)
    files = list(shapes)
    names = tuple(classes) if classes else tuple(sorted({_class(f) for f in files}))
    _check_classes(path, files, names)
    labels = [names.index(_class(file)) for file in files]

    def read(index: int) -> dict[str, np.ndarray]:
        x = decode(files[index].read())
        return {"x": x, "y": np.asarray(labels[index], np.int32)}

    listed = [(file.name, digest) for file, (_, digest) in found.items()]
    fingerprint = hashlib.sha256(repr((listed, names, settings)).encode()).hexdigest()
    return Source(read, len(files), fingerprint, skipped)


def _class(file: File) -> str:
    return pathlib.PurePosixPath(file.name).parent.name


def _check_classes(path: Any, files: Sequence[File], names: Sequence[str]) -> None:
    strange = sorted({_class(file) for file in files} - set(names))
    if strange or "" in names:
        raise DataError(
            f"{path}: files lie in {strange or 'no folder'}, which is not among the "
            f"classes {list(names)}. Put each into a folder named like its class."
        )


def _check_shapes(
    path: Any, shapes: Mapping[File, tuple[int, ...]], remedy: str
) -> None:
    first, *others = shapes.items()
    for file, shape in others:
        if shape != first[1]:
            raise DataError(
                f"{path}: {file.name} is {shape}, {first[0].name} {first[1]}. {remedy}"
            )
