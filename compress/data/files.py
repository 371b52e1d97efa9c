"""Files of a folder or an archive, found and checked before any work."""

import pathlib
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from compress.data.source import UNREADABLE, DataError

# What to do with files that cannot be read.
Unreadable = str  # "refuse" or "skip"
_SHOWN = 5


class File(NamedTuple):
    """A file to read.

    Attributes:
      name: Its path within the folder or archive, with slashes.
      size: In bytes.
      read: Gives its bytes; several threads may call it at once.
    """

    name: str
    size: int
    read: Callable[[], bytes]


def find_files(path: str | pathlib.Path, suffixes: Sequence[str]) -> list[File]:
    """The files with one of the suffixes, in order of their names.

    Args:
      path: A folder, a `.zip`, or a `.tar` that is not compressed (a compressed one
        can only be read from its beginning).
      suffixes: Such as `.png`, in lower case.

    Raises:
      DataError: If there is no such folder or archive, or no such file in it.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        found = _in_folder(path)
    elif zipfile.is_zipfile(path):
        found = _in_zip(path)
    elif path.is_file():
        found = _in_tar(path)
    else:
        raise DataError(f"{path}: no such folder or archive. Check the path.")
    files = [f for f in found if pathlib.PurePath(f.name).suffix.lower() in suffixes]
    if not files:
        raise DataError(
            f"{path}: holds no file ending in {', '.join(suffixes)}. Check the path."
        )
    return sorted(files)


def usable(
    files: Sequence[File],
    decode: Callable[[bytes], Any],
    *,
    where: Any,
    unreadable: Unreadable,
    remedy: str = "Mend or remove them, or pass unreadable='skip' to go on without.",
) -> tuple[dict[File, Any], tuple[str, ...]]:
    """What files decode to, and what is wrong with those that cannot be read.

    Args:
      files: From `find_files`.
      decode: Gives something small, such as a shape; raises if the bytes are not what
        they should be.
      where: The folder or archive, for the message.
      unreadable: `refuse` makes any such file an error; `skip` leaves them out.
      remedy: What to do about them, for the message.

    Raises:
      DataError: That counts and names the files.
    """
    if unreadable not in ("refuse", "skip"):
        raise DataError(f"unreadable={unreadable!r} must be 'refuse' or 'skip'.")
    good: dict[File, Any] = {}
    bad: list[str] = []
    for file in files:
        try:
            good[file] = decode(file.read())
        except UNREADABLE as error:
            bad.append(f"{file.name}: {error}")
    if bad and (unreadable == "refuse" or not good):
        shown = "\n  ".join([*bad[:_SHOWN], *(["..."] if len(bad) > _SHOWN else [])])
        raise DataError(
            f"{where}: {len(bad)} of {len(files)} files cannot be read:\n  {shown}\n"
            f"{remedy}"
        )
    if bad:
        from absl import logging  # a device that loads an artifact has no absl

        logging.warning(
            "%s: left out %d of %d files, the first: %s",
            where,
            len(bad),
            len(files),
            bad[0],
        )
    return good, tuple(bad)


def _in_folder(path: pathlib.Path) -> Iterator[File]:
    for file in path.rglob("*"):
        if file.is_file():
            name = file.relative_to(path).as_posix()
            yield File(name, file.stat().st_size, file.read_bytes)


def _in_zip(path: pathlib.Path) -> Iterator[File]:
    def reader(name: str) -> Callable[[], bytes]:
        # Opened for each file: one handle cannot be shared by threads.
        def read() -> bytes:
            with zipfile.ZipFile(path) as archive:
                return archive.read(name)

        return read

    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    except UNREADABLE as error:
        raise DataError(
            f"{path}: its list of files is damaged ({error}). Pack it again."
        ) from error
    for entry in entries:
        yield File(entry.filename, entry.file_size, reader(entry.filename))


def _in_tar(path: pathlib.Path) -> Iterator[File]:
    def reader(offset: int, size: int) -> Callable[[], bytes]:
        def read() -> bytes:
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(size)

        return read

    try:
        with tarfile.open(path, "r:") as archive:
            for entry in archive:
                if entry.isfile():
                    read = reader(entry.offset_data, entry.size)
                    yield File(entry.name, entry.size, read)
    except tarfile.TarError as error:
        raise DataError(
            f"{path}: neither a folder, a zip nor an uncompressed tar ({error}). "
            "Unpack it, or pack it as one of those."
        ) from error
