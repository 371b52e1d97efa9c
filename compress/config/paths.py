"""Key paths: `stages[1].prune.sparsity` as text and as `("stages", 1, ...)`."""

from __future__ import annotations

import re

KeyPath = tuple[str | int, ...]

_STEP = re.compile(r"(?P<dot>\.?)(?P<key>[^.\[\]=\s]+)|\[(?P<index>[0-9]+)\]")


def path_text(path: KeyPath) -> str:
    """Writes a path the way a user does."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text


def parse_path(text: str) -> KeyPath:
    """Reads a path.

    Raises:
      ValueError: If `text` is not keys joined by dots, with `[index]` for items.
    """
    path: list[str | int] = []
    position = 0
    while position < len(text):
        match = _STEP.match(text, position)
        if match is None or not _continues(match, path):
            break
        key, index = match["key"], match["index"]
        path.append(key if key is not None else int(index))
        position = match.end()
    if not path or position < len(text):
        raise ValueError(
            f"{text!r} is not a path; write keys joined by dots and items as "
            "[index], like stages[1].prune.sparsity"
        )
    return tuple(path)


def _continues(match: re.Match[str], path: list[str | int]) -> bool:
    """Whether a step may follow: a dot before every key but the first."""
    if match["key"] is None:
        return bool(path)
    return bool(match["dot"]) == bool(path)
