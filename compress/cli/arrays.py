"""Reads and writes the arrays of `predict`."""

import io
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np

from compress.export import ArtifactError
from compress.files import write_bytes


def read_input(path: str) -> np.ndarray:
    """An input from a .npy file.

    Raises:
      ArtifactError: If it is not one, or holds NaN or infinity.
    """
    try:
        with open(path, "rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ArtifactError(
            f"{path}: not a .npy array ({error}). Write it with numpy.save."
        ) from None
    _check_finite(path, array)
    return array


def _check_finite(path: str, array: np.ndarray) -> None:
    """An artifact in int8 would take NaN for 0."""
    if not np.issubdtype(array.dtype, np.inexact) or np.isfinite(array).all():
        return
    first = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
    raise ArtifactError(
        f"{path}: holds {array[first]} at {list(first)}. Clean the data; int8 would "
        "take it for a number."
    )


def check_output(path: pathlib.Path, num_outputs: int) -> None:
    """Refuses what `write_output` could not write, before there is anything to lose.

    Raises:
      ValueError: If its folder does not exist, it is a folder itself, or it is
        named as one array and there are several.
    """
    if not path.parent.is_dir():
        raise ValueError(f"--output={path}: {path.parent} is no folder. Make it first.")
    if path.is_dir():
        raise ValueError(f"--output={path}: is a folder. Name a file in it.")
    if num_outputs > 1 and path.suffix == ".npy":
        raise ValueError(
            f"--output={path}: there are {num_outputs} outputs, and a .npy file holds "
            f"one. Use --output={path.with_suffix('.npz')}."
        )


def write_output(path: pathlib.Path, outputs: Mapping[str, np.ndarray]) -> None:
    """Writes one array as .npy, several as .npz; the name is taken as it is."""
    buffer = io.BytesIO()
    if len(outputs) == 1:
        np.save(buffer, *outputs.values(), allow_pickle=False)
    else:
        _write_npz(buffer, outputs)
    write_bytes(path, buffer.getvalue())


def _write_npz(buffer: io.BytesIO, arrays: Mapping[str, np.ndarray]) -> None:
    # Not numpy.savez, which takes names as keywords and has some of its own.
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
