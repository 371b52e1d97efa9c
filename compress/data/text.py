"""Text as windows of bytes, for models of language."""

import hashlib
import pathlib

import numpy as np

from compress.data.source import DataError, Source


def text_windows(
    path: str | pathlib.Path, *, length: int, stride: int | None = None
) -> Source:
    """Examples `{"x": int32 [length], "y": int32 [length]}`: bytes, and the next ones.

    The file stays on disk; what is read of it stays in the system's cache.

    Args:
      path: A file of text; every byte is a token of 256.
      length: Of a window.
      stride: From one window to the next; None: windows do not overlap.

    Raises:
      DataError: If there is no such file, or it is shorter than one window.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file. Check the path.")
    text = np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.empty(0)
    step = stride or length
    count = (len(text) - length - 1) // step + 1 if len(text) > length else 0
    if count < 1:
        raise DataError(
            f"{path}: has {len(text)} bytes, and a window and its next byte take "
            f"{length + 1}. Give a longer text, or a smaller length."
        )

    def read(index: int) -> dict[str, np.ndarray]:
        window = text[index * step : index * step + length + 1].astype(np.int32)
        return {"x": window[:-1], "y": window[1:]}

    digest = hashlib.sha256(text.tobytes())
    digest.update(f"{length} {step}".encode())
    return Source(read, count, digest.hexdigest())
