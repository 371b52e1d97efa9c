"""Finds the model of an artifact again, from the config in it."""

import json
import pathlib
from typing import Any, NamedTuple

from compress.annotations import PyTree
from compress.config import Config, parse_config
from compress.export import Artifact, ArtifactError, read_upgradable, upgrade
from compress.schedule import post_training
from compress.task import load_task
from compress.train import (
    CheckpointError,
    Entered,
    boundaries_of,
    rebuilt_phase,
)
from compress.transform import Transform, chain


class Rebuilt(NamedTuple):
    """What was exported, with fresh parameters.

    Attributes:
      forward: `(params, model_state, *inputs) -> outputs`, at inference.
      params: Of the right structure; their values are those of an untrained model.
      model_state: Likewise.
      transform: As in training.
    """

    forward: Any
    params: PyTree
    model_state: PyTree
    transform: Transform


def rebuild(directory: pathlib.Path, manifest: Any) -> Rebuilt:
    """The model that an artifact's config names.

    Raises:
      ArtifactError: If it was exported without a config.
    """
    name = manifest.get("config")
    if name is None:
        raise ArtifactError(
            f"{directory}: was exported without a config, so its model is not known "
            "here. In Python, call compress.upgrade(path, forward, params, transform)."
        )
    config = parse_config(json.loads((directory / name).read_bytes()))
    last = _last_phase(directory, config, manifest.get("metadata", {}).get("phases"))
    model, setting = last.model, config.export.quantize

    def forward(params: PyTree, model_state: PyTree, *inputs: Any) -> Any:
        return model.forward(params, model_state, *inputs)[0]

    transform = last.transform
    if setting is not None:
        transform = chain(transform, post_training(setting))
    return Rebuilt(forward, model.params, model.model_state, transform)


def _last_phase(directory: pathlib.Path, config: Config, phases: Any) -> Entered:
    try:
        known = [] if phases is None else boundaries_of(phases)
        return rebuilt_phase(config, load_task(config.task, config.data), known)
    except (KeyError, TypeError, CheckpointError) as error:
        raise ArtifactError(
            f"{directory}: metadata.phases do not say which units the model of its "
            f"config has kept ({error}). Export it again."
        ) from error


def upgrade_artifact(path: str | pathlib.Path) -> Artifact:
    """Makes the programs of an artifact again, with the model its config names."""
    directory = pathlib.Path(path)
    found = rebuild(directory, read_upgradable(directory))
    return upgrade(
        directory,
        found.forward,
        found.params,
        found.transform,
        model_state=found.model_state,
    )
