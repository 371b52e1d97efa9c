"""Writes files whole or not at all."""

import json
import pathlib
import uuid
from typing import Any


def write_bytes(path: pathlib.Path, content: bytes) -> pathlib.Path:
    """Writes under a temporary name, then renames: no reader sees half a file."""
    # Not the process id: two hosts, or containers, may share a directory and an id.
    partial = path.with_name(f".{path.name}.partial-{uuid.uuid4().hex[:12]}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_text(path: pathlib.Path, content: str) -> pathlib.Path:
    """`write_bytes`, in UTF-8."""
    return write_bytes(path, content.encode())


def write_json(path: pathlib.Path, content: Any) -> pathlib.Path:
    """`write_text`, as indented JSON."""
    return write_text(path, json.dumps(content, indent=2) + "\n")
