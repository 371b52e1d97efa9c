"""A sweep's runs as the rows of a comparison, so that one mechanism runs both."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from compress.config.document import Document, with_setting
from compress.config.errors import ConfigError, Problem
from compress.config.models import Config
from compress.config.paths import KeyPath, parse_path, path_text
from compress.config.rows import declared_techniques
from compress.config.sweep import Search, Sweep
from compress.config.validation import check

_SAME_FOR_ALL = ("name", "compare", "sweep", "seeds")
_LONGEST_NAME = 80


class Combination(NamedTuple):
    """One run of a sweep, as many seeds as the config has.

    Attributes:
      name: Of its row, from what it sets: `sparsity=0.8`.
      overrides: Values by path.
      where: Path of what declares them.
    """

    name: str
    overrides: Mapping[str, Any]
    where: KeyPath


def combinations(sweep: Sweep) -> list[Combination]:
    """The runs of a grid or a list, in order; none of a search, which chooses."""
    if sweep.grid is not None:
        values = itertools.product(*sweep.grid.values())
        runs = [dict(zip(sweep.grid, value, strict=True)) for value in values]
        return [named(run, list(sweep.grid), ("sweep", "grid")) for run in runs]
    runs = [dict(run) for run in sweep.list or ()]
    paths = list(dict.fromkeys(path for run in runs for path in run))
    return [named(run, paths, ("sweep", "list", i)) for i, run in enumerate(runs)]


def named(
    overrides: Mapping[str, Any], paths: Sequence[str], where: KeyPath
) -> Combination:
    """A run with a name, in which each path is as short as `paths` allow."""
    short = _short_names(paths)
    parts = [f"{short[path]}={_text(value)}" for path, value in overrides.items()]
    return Combination(", ".join(parts) or "unchanged", overrides, where)


def with_rows(config: Config, runs: Sequence[Combination]) -> Config:
    """The comparison of some runs of a sweep.

    Raises:
      ConfigError: If a run is no valid config, or there are two of one name.
    """
    document = Document("the sweep", config.model_dump(mode="json"), {})
    problems = list(_run_problems(document, runs))
    if problems:
        raise ConfigError(document.source, [problem.line("") for problem in problems])
    rows = [_row(document, run) for run in runs]
    tree = {**document.tree, "sweep": None, "compare": {"rows": rows}}
    return Config.model_validate(tree)


def sweep_problems(document: Document, known: list[Problem]) -> Iterator[Problem]:
    """What is wrong in the runs of a document's sweep, beyond what already is.

    The sweep of a comparison is that of one of its rows, chosen later.
    """
    tree = document.tree
    if tree.get("sweep") is None or tree.get("compare") is not None:
        return
    try:
        sweep = Sweep.model_validate(tree["sweep"])
    except ValidationError:
        return  # Reported by its model.
    runs = combinations(sweep) if sweep.search is None else _ends(sweep.search)
    yield from _run_problems(document, runs, known)


def _ends(search: Search) -> list[Combination]:
    """The ends of each range and each choice, alone: what a search may try."""
    found = []
    for path, dimension in search.space.items():
        ends = dimension.choices or (dimension.low, dimension.high)
        where = ("sweep", "search", "space")
        found += [named({path: value}, list(search.space), where) for value in ends]
    return found


def _run_problems(
    document: Document, runs: Sequence[Combination], known: Sequence[Problem] = ()
) -> Iterator[Problem]:
    """Each thing that is wrong and not known, at the first run that has it."""
    seen = {(problem.path, problem.message) for problem in known}
    names: set[str] = set()
    for run in runs:
        if run.name in names:
            yield Problem(run.where, f"{run.name!r} is there twice; list each run once")
        names.add(run.name)
        for problem in _problems_of(document, run):
            if (problem.path, problem.message) not in seen:
                seen.add((problem.path, problem.message))
                message = f"run {run.name!r}: {problem.message}"
                yield problem._replace(message=message)


def _problems_of(document: Document, run: Combination) -> list[Problem]:
    changed = _changed(document, run)
    if changed.problems:
        return list(changed.problems)
    tree = {**changed.tree, "name": run.name, "sweep": None, "compare": None}
    problems = check(changed._replace(tree=tree))[1]
    return [
        problem._replace(place=problem.place or changed.place(problem.path))
        for problem in problems
    ]


def _changed(document: Document, run: Combination) -> Document:
    """The document with what a run sets; its problems are those of the run alone."""
    changed = document._replace(
        tree={**document.tree, "compare": None, "sweep": None}, problems=()
    )
    for dotted, value in run.overrides.items():
        place = document.place((*run.where, dotted))
        if dotted.partition(".")[0].partition("[")[0] in _SAME_FOR_ALL:
            message = "is the same for all runs of a sweep; remove it here"
            changed = changed.with_problem(Problem((dotted,), message, place))
        else:
            changed = with_setting(changed, dotted, value, place)
    return changed


def _row(document: Document, run: Combination) -> dict[str, Any]:
    use = declared_techniques(_changed(document, run).tree)
    return {"name": run.name, "use": use, "set": dict(run.overrides)}


def _short_names(paths: Sequence[str]) -> dict[str, str]:
    """The shortest ends of paths that tell them apart: `sparsity`."""
    ends = {path: _ends_of(path) for path in paths}
    short = {}
    for path, own in ends.items():
        others = {end for other in paths if other != path for end in ends[other]}
        short[path] = next((end for end in own if end not in others), path)
    return short


def _ends_of(path: str) -> list[str]:
    """The ends of a path that start with a key, the shortest first."""
    try:
        steps = parse_path(path)
    except ValueError:
        return [path]
    starts = [i for i in reversed(range(len(steps))) if isinstance(steps[i], str)]
    return [path_text(steps[i:]) for i in starts]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value)
