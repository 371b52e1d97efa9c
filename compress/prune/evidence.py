"""What there is to decide by: the weights dense, and as they are served."""

from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp

from compress.annotations import Array, PyTree
from compress.prune.scores import Evidence, Score
from compress.sites import parameter_paths
from compress.transform import Update

# How much the dense score counts beside that of the weight on its grid. Within a
# channel it only breaks ties; between channels it moves a score by less than 0.1 %.
_TIE = 2.0**-10


def evidence_of(
    what: Update, paths: Collection[str], needs: Collection[str], user: str
) -> Evidence:
    """What a step has to say of the pruned parameters.

    Args:
      what: The step.
      paths: Of the pruned parameters.
      needs: What must be given besides the parameters.
      user: Who needs it, for the message.

    Raises:
      ValueError: If something of that was not given.
    """
    given = {"params": what.params, "grads": what.grads, "before": what.before}
    for name in sorted(needs):
        if given[name] is None:
            raise ValueError(
                f"{user} needs {name}. Pass compress.update(transform, state, params, "
                "grads, observed, before)."
            )
    found: dict[str, Any] = {}
    for name, tree in given.items():
        by_path = parameter_paths(tree)
        found[name] = {path: by_path[path] for path in paths} if by_path else None
    return Evidence(found["params"], found["grads"], found["before"])


def rounded(what: Update) -> Update | None:
    """A step with its weights on the grid of later transforms; None without one."""
    if what.on_grid is None:
        return None
    before = None if what.before is None else what.on_grid(what.before)
    return what._replace(params=what.on_grid(what.params), before=before)


def served_scores(
    score: Score, memory: PyTree, dense: Evidence, served: Evidence | None
) -> dict[str, Array]:
    """The scores of the weights as they are served.

    On a grid of few values many are equal: of those, the dense weights decide.

    Args:
      score: What connections are worth.
      memory: Of the score.
      dense: What it may look at.
      served: The same on a grid; None if there is none.
    """
    scores = _as_float(score.scores(memory, dense))
    if served is None:
        return scores
    on_grid = _as_float(score.scores(memory, served))
    return {path: x + _TIE * (scores[path] - x) for path, x in on_grid.items()}


def _as_float(scores: Mapping[str, Array]) -> dict[str, Array]:
    return {path: score.astype(jnp.float32) for path, score in scores.items()}
