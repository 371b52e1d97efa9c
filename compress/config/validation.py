"""One document to one config, rows not yet looked at."""

from __future__ import annotations

from pydantic import ValidationError

from compress.config.checks import find_problems
from compress.config.document import Document
from compress.config.errors import Problem
from compress.config.messages import problems_in
from compress.config.models import Config


def check(document: Document) -> tuple[Config | None, list[Problem]]:
    """Validates a document.

    Returns:
      The config, or None when some value is wrong in itself; and the problems. What
      values must agree on is only looked at when each is right.
    """
    problems = list(document.problems)
    try:
        config = Config.model_validate(document.tree)
    except ValidationError as error:
        return None, [*problems, *problems_in(document.tree, error)]
    return config, [*problems, *find_problems(config)]
