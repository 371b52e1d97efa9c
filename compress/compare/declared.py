"""What was declared before the runs: claims and seeds, and when they came in.

A claim that is written down once results are known is no test of it, and neither is one
whose seeds were added until it held. The record keeps what was there first.
"""

import json
import pathlib
import time
from typing import Any

from compress.compare.cell import RESULT
from compress.config import Config
from compress.files import write_json
from compress.train import git_commit

RECORD = "declared.json"


def declare(config: Config, directory: pathlib.Path) -> dict[str, list[int]]:
    """Adds claims and seeds that are new to the directory's record.

    Args:
      config: With `compare`.
      directory: Of the comparison.

    Returns:
      `contrasts` and `seeds`: for each of the config's, how many runs were finished
      when it was declared.
    """
    assert config.compare is not None
    asked = {
        "contrasts": [c.model_dump(mode="json") for c in config.compare.contrasts],
        "seeds": list(config.seeds),
    }
    path = directory / RECORD
    record: dict[str, list[Any]] = json.loads(path.read_text()) if path.exists() else {}
    now = {
        "runs_finished": len(list(directory.glob(f"*/{RESULT}"))),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": git_commit(config.task),
    }
    for kind, values in asked.items():
        known = record.setdefault(kind, [])
        there = [entry["declared"] for entry in known]
        known += [{"declared": v, **now} for v in values if v not in there]
    write_json(path, record)
    return {kind: _counts(record[kind], values) for kind, values in asked.items()}


def _counts(known: list[dict[str, Any]], values: list[Any]) -> list[int]:
    by_value = [(entry["declared"], entry["runs_finished"]) for entry in known]
    return [next(n for value, n in by_value if value == asked) for asked in values]


def late_seeds(config: Config, runs_finished: list[int]) -> list[str]:
    """A note for seeds that were added when results were there."""
    late = {s: n for s, n in zip(config.seeds, runs_finished) if n}
    if not late:
        return []
    named = ", ".join(map(str, late))
    return [
        f"Seeds {named} were added after {min(late.values())} runs had finished: if "
        "results decided that, intervals promise too much."
    ]
