"""Exports a network as it stands, to know its latency before it is trained."""

import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from compress.adapters import Model
from compress.annotations import PyTree
from compress.config import Config, PostTraining
from compress.export import Artifact, export
from compress.prune import shrink
from compress.report import measure_latency
from compress.schedule import post_training
from compress.sites import find_sites
from compress.task import Task
from compress.train import Entered, calibration_batches
from compress.transform import Transform, calibrate, chain, init

_BATCHES = 2  # for ranges; the numbers do not matter here
_REPETITIONS = 30


def latency_of(
    config: Config, task: Task, seed: int = 0
) -> Callable[[Entered, Model], Callable[[Mapping[str, Any]], float]]:
    """What measures a choice of units, for `train`.

    Each choice is exported in the grid that the config ends with, and timed at its
    static batch, interleaved with the whole network.
    """

    def of_network(entered: Entered, model: Model) -> Any:
        def ratio(keep: Mapping[str, Any]) -> float:
            small = _without(entered, model, keep)
            models = {"whole": model, "shrunk": small}
            entries = time_models(config, task, models, seed=seed)
            return float(entries["shrunk"]["paired_ratio"])

        return ratio

    return of_network


def _without(entered: Entered, model: Model, keep: Mapping[str, Any]) -> Model:
    small = shrink(
        model.forward,
        model.params,
        keep,
        groups=entered.groups,
        model_state=model.model_state,
    )
    return Model(small.forward, small.params, small.model_state)


def time_models(
    config: Config, task: Task, models: Mapping[str, Model], *, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Latency of several networks, exported with the weights they have.

    Returns:
      By name, the figures of `measure_latency`; ratios are to the first one.
    """
    batch = config.export.static_batch
    examples = task.inputs_of(task.train)
    inputs = [
        jax.device_put(np.resize(np.asarray(x), (batch, *x.shape[1:])))
        for x in examples
    ]
    with tempfile.TemporaryDirectory() as folder:
        calls = {
            name: _call(
                trial_artifact(
                    config, task, model, pathlib.Path(folder) / str(index), seed
                ),
                batch,
                inputs,
            )
            for index, (name, model) in enumerate(models.items())
        }
        return measure_latency(calls, repetitions=_REPETITIONS)["entries"]


def _call(artifact: Artifact, batch: int, inputs: list[Any]) -> Callable[[], Any]:
    function = artifact.function(batch)
    return lambda: function(*inputs)


def trial_artifact(
    config: Config, task: Task, model: Model, path: pathlib.Path, seed: int = 0
) -> Artifact:
    """The artifact of a network as it is now, in the grid that the config ends with."""
    batches = calibration_batches(config, task, seed, _BATCHES)

    def forward(params: PyTree, model_state: PyTree, *inputs: Any) -> Any:
        return model.forward(params, model_state, *inputs)[0]

    transform = final_grid(config)
    state = init(forward, transform, model.params, model.model_state, *batches[0])
    if transform.provides:
        predict = model.predictor()
        sites = find_sites(predict, model.params, *batches[0])
        state = state._replace(memory=transform.init(model.params, sites))
        state = calibrate(predict, transform, model.params, state, batches)
    return export(
        path,
        forward,
        model.params,
        transform,
        state,
        model_state=model.model_state,
        batches=batches,
        platforms=config.export.platforms,
        static_batch=config.export.static_batch,
        lowering=config.export.lowering,
        # Untrained scores may be as good as equal: nothing is decided with them.
        classifies=False,
    )


def final_grid(config: Config) -> Transform:
    """The quantization that a config ends with, decided after training."""
    setting = config.export.quantize
    for stage in config.stages:
        if stage.quantize is not None:
            keys = ("weights", "activations", "sites", "exclude")
            grid = {key: getattr(stage.quantize, key) for key in keys}
            setting = PostTraining(**grid)
    return chain() if setting is None else post_training(setting)
