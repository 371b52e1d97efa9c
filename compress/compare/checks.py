"""Whether the numbers of two runs of a cell are the same, or as good as the same."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from compress.compare.lock import Numbers

EXACT, CLOSE, DIFFERENT, MISSING = "exact", "close", "different", "missing"

# Training amplifies roundings, so that another machine ends at other weights, as good
# as another seed. Three standard errors over the test items; the rest by experience.
_STANDARD_ERRORS = 3.0
_ABSOLUTE = {"agreement": 0.02, "sparsity": 0.005}
_RELATIVE = {"macs": 0.02, "sizes": 0.02, "extras": 0.1}


class Check(NamedTuple):
    """One number of a lock, and the same one of the new run.

    Attributes:
      row: Of the comparison.
      seed: Of the cell.
      name: `score`, `sizes.zlib`.
      locked: Then.
      found: Now; None if the cell failed.
      verdict: `exact`: the same bits; `close`: within what roundings do across
        machines and versions; `different`; `missing`.
      regrouped: The cell was trained in a program of other seeds than then, whose
        roundings are others.
    """

    row: str
    seed: int
    name: str
    locked: Any
    found: Any
    verdict: str
    regrouped: bool = False


class Reproduction(NamedTuple):
    """What came out.

    Attributes:
      changed: What is not as it was: versions, machine, commit.
      checks: Every number.
    """

    changed: tuple[str, ...]
    checks: tuple[Check, ...]

    @property
    def succeeded(self) -> bool:
        """All bits are the same, or where something changed, all numbers are close."""
        return bool(self.checks) and all(map(self._holds, self.checks))

    def _holds(self, check: Check) -> bool:
        close_will_do = self.changed or check.regrouped
        return check.verdict in ((EXACT, CLOSE) if close_will_do else (EXACT,))


def check_cell(row: str, seed: int, then: Numbers, now: Numbers) -> Iterator[Check]:
    """Every number of one cell."""
    before, after = _leaves(then), _leaves(now)
    seeds = then.program_seeds, now.program_seeds
    regrouped = None not in seeds and seeds[0] != seeds[1]
    for name in dict.fromkeys([*before, *after]):
        if name in ("config_hash", "program_seeds", "score_error"):
            continue
        locked, found = before.get(name), after.get(name)
        verdict = _judge(name, locked, found, then)
        yield Check(row, seed, name, locked, found, verdict, regrouped)


def _leaves(numbers: Numbers) -> dict[str, Any]:
    """`sizes.file` and the like, flat."""
    flat = {}
    for name, value in numbers.model_dump().items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": each for key, each in value.items()}
        else:
            flat[name] = value
    return flat


def _judge(name: str, locked: Any, found: Any, then: Numbers) -> str:
    if locked == found and type(locked) is type(found):
        return EXACT
    if name.endswith("_hash"):
        return CLOSE  # other bits: how far away, the other numbers tell
    if locked is None or found is None:
        return DIFFERENT
    return CLOSE if abs(found - locked) <= _tolerance(name, then, locked) else DIFFERENT


def _tolerance(name: str, then: Numbers, locked: float) -> float:
    if name in ("score", "trained_score"):
        return _STANDARD_ERRORS * then.score_error
    if name in _ABSOLUTE:
        return _ABSOLUTE[name]
    return _RELATIVE[name.partition(".")[0]] * abs(locked)


def summary(result: Reproduction) -> list[str]:
    """Lines that tell what came out, the numbers that differ first."""
    lines = [_line(check) for check in result.checks if check.verdict != EXACT]
    counts = Counter(check.verdict for check in result.checks)
    told = ", ".join(f"{counts[v]} {v}" for v in (EXACT, CLOSE, DIFFERENT, MISSING))
    return [*lines, f"{len(result.checks)} numbers: {told}", _verdict(result, counts)]


def _verdict(result: Reproduction, counts: Mapping[str, int]) -> str:
    if not result.succeeded and not (counts[DIFFERENT] or counts[MISSING]):
        return (
            "NOT REPRODUCED: machine, versions, commit and seeds of a program are the "
            "same, so every bit should be."
        )
    if not result.succeeded:
        return "NOT REPRODUCED"
    if counts[CLOSE]:
        return (
            "reproduced, within what roundings do across machines, versions and "
            "groupings of seeds"
        )
    return "reproduced: every bit is the same (times are not compared)"


def _line(check: Check) -> str:
    row = f"{check.row}, seed {check.seed}, {check.name}"
    if check.verdict == MISSING:
        return f"{row}: {check.verdict}, the cell failed"
    why = ", made by another grouping of seeds" if check.regrouped else ""
    numbers = f"{_short(check.locked)} -> {_short(check.found)}"
    return f"{row}: {check.verdict}, {numbers}{why}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)[:12]
