"""A file is written whole, or what was there stays."""

import json
import pathlib
from typing import Any

import pytest

from compress.files import write_bytes, write_json, write_text

WRITERS = [(write_bytes, b"new"), (write_text, "new \u00b5s"), (write_json, {"a": [1]})]


@pytest.mark.parametrize(("write", "content"), WRITERS)
def test_what_is_written_is_read_back_and_nothing_else_is_left(
    write: Any, content: Any, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old and longer than the new one")
    write(path, content)
    read = {
        write_bytes: path.read_bytes,
        write_text: lambda: path.read_text("utf8"),
        write_json: lambda: json.loads(path.read_text()),
    }
    assert read[write]() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("write", "content"), WRITERS)
def test_a_write_that_fails_half_way_leaves_the_old_file_and_no_other(
    write: Any,
    content: Any,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    whole = pathlib.Path.write_bytes

    def half(path: pathlib.Path, content: bytes) -> int:
        whole(path, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space left"):
        write(path, content)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
