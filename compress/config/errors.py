"""What a wrong config raises: every problem, each with its place and its remedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from compress.config.paths import KeyPath, path_text


class Problem(NamedTuple):
    """One thing that is wrong.

    Attributes:
      path: The key concerned; `()` when it is the file as a whole.
      message: What was found and what to do.
      place: Text that goes before the path, such as `"run.yaml:4: "`. None means
        the line the path was read from.
    """

    path: KeyPath
    message: str
    place: str | None = None

    def line(self, place: str) -> str:
        """The problem as one line, `place` being where its path was read."""
        shown = place if self.place is None else self.place
        path = f"{path_text(self.path)}: " if self.path else ""
        return f"{shown}{path}{self.message}"


class ConfigError(ValueError):
    """A config that cannot be used; its text lists every problem, one per line.

    Attributes:
      source: The file, or whatever else was being read.
      problems: One line per problem.
    """

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        # Both go to `args`, so that the error survives pickling between processes.
        super().__init__(source, tuple(problems))
        self.source = source
        self.problems = tuple(problems)

    def __str__(self) -> str:
        count = len(self.problems)
        noun = "problem" if count == 1 else "problems"
        lines = (f"  {problem}" for problem in self.problems)
        return "\n".join((f"{count} {noun} in {self.source}:", *lines))


def describe(value: Any) -> str:
    """Names a value found in a config, short enough for one line."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}" if value else "an empty list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
