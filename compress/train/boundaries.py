"""What was decided at each boundary between phases, in `phases.json` of a run."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from compress.annotations import Int
from compress.files import write_json
from compress.train.checkpoints import CheckpointError

PHASES = "phases.json"
_VERSION = 1

# Kept units by group: [kept], or [layers, kept] where layers keep their own.
Keep = Mapping[str, Int[np.ndarray, "..."]]


class Boundary(NamedTuple):
    """What happened where a phase was entered.

    Attributes:
      step: Updates done before it.
      before: Hash of the training state before it.
      after: And after it.
      keep: Kept units of each group that lost some.
      sizes: Units of every group that could lose some, before it.
      masks: Paths of the parameters that were pruned from inputs.
      records: What the report must say of it.
    """

    step: int
    before: str
    after: str
    keep: dict[str, list[Any]]
    sizes: dict[str, int]
    masks: list[str]
    records: list[str]

    def kept(self) -> Keep:
        """The kept units as arrays."""
        return {name: np.asarray(units, np.int64) for name, units in self.keep.items()}


def read_boundaries(directory: pathlib.Path) -> list[Boundary]:
    """The boundaries a run has passed, in order; none if it passed none.

    Raises:
      CheckpointError: If the file is damaged.
    """
    path = directory / PHASES
    if not path.exists():
        return []
    try:
        return boundaries_of(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: damaged ({type(error).__name__}: {error}). It says which units "
            "the checkpoints hold: choose another --workdir and start again."
        ) from None


def write_boundaries(directory: pathlib.Path, boundaries: Sequence[Boundary]) -> None:
    """Writes them all, whole or not at all."""
    write_json(directory / PHASES, boundaries_json(boundaries))


def boundaries_json(boundaries: Sequence[Boundary]) -> dict[str, Any]:
    """As JSON holds them."""
    lines = [boundary._asdict() for boundary in boundaries]
    return {"format_version": _VERSION, "boundaries": lines}


def boundaries_of(raw: Any) -> list[Boundary]:
    """The boundaries in what `boundaries_json` gave.

    Raises:
      KeyError, TypeError, ValueError: If it is something else.
    """
    if raw["format_version"] != _VERSION:
        raise ValueError(f"format_version {raw['format_version']}, not {_VERSION}")
    return [Boundary(**line) for line in raw["boundaries"]]


def surviving_units(boundaries: Sequence[Boundary]) -> dict[str, dict[str, Any]]:
    """By group, how many units there were, and which of them are left."""
    units: dict[str, dict[str, Any]] = {}
    for boundary in boundaries:
        for name, size in boundary.sizes.items():
            here = units.setdefault(name, {"size": size, "kept": list(range(size))})
            if name in boundary.keep:
                before = np.asarray(here["kept"])
                here["kept"] = _chosen(before, np.asarray(boundary.keep[name])).tolist()
    return units


def _chosen(
    before: Int[np.ndarray, "..."], kept: Int[np.ndarray, "..."]
) -> Int[np.ndarray, "..."]:
    """Which of the first units are left, when `kept` of those in `before` are."""
    if before.ndim == 1:
        return before[kept]
    kept = np.broadcast_to(kept, (len(before), kept.shape[-1]))
    return np.take_along_axis(before, kept, axis=1)
