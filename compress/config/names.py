"""Near misses: which known name a mistyped one may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(
    name: str, candidates: Iterable[str], n: int = 3, cutoff: float = 0.6
) -> list[str]:
    """The candidates most like `name`, best first; case is ignored.

    Args:
      name: What was written.
      candidates: What exists.
      n: The most to return.
      cutoff: How alike they must be, 0 (anything) to 1 (equal).

    Returns:
      At most `n` candidates; empty when none is alike enough.
    """
    matcher = difflib.SequenceMatcher(b=name.lower())
    ranked: list[tuple[float, str]] = []
    for candidate in dict.fromkeys(candidates):
        matcher.set_seq1(candidate.lower())
        ranked.append((matcher.ratio(), candidate))
    ranked.sort(key=lambda pair: -pair[0])  # Stable: ties keep the given order.
    return [candidate for ratio, candidate in ranked if ratio >= cutoff][:n]


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """`did you mean 'sparsity'?`, or all candidates when none is near."""
    known = list(candidates)
    near = nearest(name, known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known here: {', '.join(known)}" if known else "nothing is known here"
