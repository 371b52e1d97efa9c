"""One cell of a comparison: a config and a seed, from training to measured artifact."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import compress.transform as transforms
from compress import processes
from compress.adapters import Model
from compress.annotations import PyTree
from compress.compare.trial import measure_of
from compress.config import Config, config_hash
from compress.export import Artifact, Shared, export, export_onnx
from compress.export.manifest import program_files
from compress.files import write_json
from compress.report import FORMAT_VERSION, pack_items, size_accounting
from compress.schedule import post_training, stage_starts
from compress.sites import find_sites
from compress.task import Task, build_model, load_task
from compress.train import (
    Evaluation,
    Trained,
    boundaries_json,
    calibration_batches,
    check_schedule,
    data_hash,
    evaluate,
    finished,
    hash_of,
    input_records,
    surviving_units,
    teacher_of,
    train,
)
from compress.transform import State, calibrator, chain

RESULT = "result.json"
_MAX_BATCHES = 8


class CellError(RuntimeError):
    """A cell that cannot be run."""


def run_cell(
    config: Config,
    directory: pathlib.Path,
    *,
    seed: int,
    teachers: pathlib.Path,
    resume: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Trains, exports and measures one model.

    Args:
      config: Of this cell, without `compare`.
      directory: Of the cell; gets `result.json` and `artifact/`.
      seed: Of everything random.
      teachers: Where teachers are kept.
      resume: Goes on with an unfinished run, and returns a finished one as it is.
      quiet: Shows no progress bar.

    Returns:
      The result, as in `result.json`.
    """
    task = load_task(config.task, config.data)
    finished = finished_result(config, directory, seed, data_hash(task))
    if resume and finished is not None:
        return finished
    check_schedule(config, task)
    teacher = teacher_of(config, task, teachers, quiet=quiet)
    trained = train(
        config,
        task,
        directory,
        seed=seed,
        teacher=teacher,
        measure=measure_of(config, task),
        resume=resume,
        quiet=quiet,
    )
    shipping = Shipping(config, trained)
    return processes.on_primary(
        lambda: ship_cell(shipping, task, trained, directory, seed=seed)
    )


def ship_cell(
    shipping: "Shipping",
    task: Task,
    trained: Trained,
    directory: pathlib.Path,
    *,
    seed: int,
) -> dict[str, Any]:
    """Exports and measures a trained model: the second half of `run_cell`."""
    state = shipping.state(task, trained, seed)
    result = _ship(shipping, task, trained, state, directory, seed)
    # Before the result: a cell with an error has failed, whatever lies beside it.
    for name in ("error.json", "traceback.txt"):
        (directory / name).unlink(missing_ok=True)
    write_json(directory / RESULT, result)
    return result


def write_onnx(
    config: Config, directory: pathlib.Path, *, seed: int, teachers: pathlib.Path
) -> pathlib.Path:
    """Writes a finished cell's model as `model.onnx`, beside its artifact.

    Args:
      config: Of the cell, without `compare`.
      directory: Of the cell.
      seed: Of the cell.
      teachers: Where teachers are kept.

    Raises:
      CellError: If the cell is not finished.
      NotImplementedError: If an operation of the model has no form in ONNX here.
    """
    task = load_task(config.task, config.data)
    done = finished_result(config, directory, seed, data_hash(task)) is not None
    teacher = teacher_of(config, task, teachers, quiet=True) if done else None
    trained = finished(config, task, directory, seed=seed, teacher=teacher)
    if not done or trained is None:
        raise CellError(
            f"{directory}: holds no finished run of this config with its checkpoints. "
            "Use `run` first, with the same --workdir, --row and --set."
        )
    shipping = Shipping(config, trained)
    return export_onnx(
        directory / "model.onnx",
        shipping.shared.forward,
        trained.state.params,
        shipping.shared.transform,
        shipping.state(task, trained, seed),
        model_state=trained.state.model_state,
        batches=calibration_batches(config, task, seed, _MAX_BATCHES),
        overwrite=True,
    )


def finished_result(
    config: Config, directory: pathlib.Path, seed: int, data: str
) -> dict[str, Any] | None:
    """The result of a finished cell.

    Raises:
      CellError: If the directory holds the result of another config, or a damaged one.
    """
    path = directory / RESULT
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text())
        found, found_seed = str(result["config_hash"]), result["seed"]
        version = int(result["format_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise CellError(
            f"{path}: not a result ({type(error).__name__}: {error}). Remove it, and "
            "run again."
        ) from None
    there, here = (found, found_seed), (config_hash(config), seed)
    if there != here or result.get("data_hash") != data:
        what = "config" if there != here else "data"
        raise CellError(
            f"{directory}: holds the result of another {what} "
            f"({found[:12]}, seed {found_seed}; this one is "
            f"{config_hash(config)[:12]}, seed {seed}). Choose another --workdir, or "
            "remove it."
        )
    # One of an older version is exported and measured again, from its checkpoints.
    return result if version == FORMAT_VERSION else None


class Shipping:
    """How the cells of one row are shipped; what they have in common is compiled once.

    Attributes:
      config: Of the row.
      shared: The inference function and what is shipped: the trained chain, and PTQ
        after it where the config says so.
    """

    def __init__(self, config: Config, trained: Trained) -> None:
        """For one run, and others with its model and transform."""
        self.config, setting = config, config.export.quantize
        forward, transform = _inference(trained.model), trained.transform
        self._after = None if setting is None else post_training(setting)
        both = transform if self._after is None else chain(transform, self._after)
        self.shared = Shared(forward, both)
        self._calibrated = calibrator(forward, both)

    def state(self, task: Task, trained: Trained, seed: int) -> State:
        """The state of what is shipped: as trained, or calibrated."""
        state, setting = trained.state.compression, self.config.export.quantize
        if setting is None or self._after is None:
            return state
        params, first = trained.state.params, trained.state.model_state
        batches = calibration_batches(self.config, task, seed, setting.batches)
        sites = find_sites(self.shared.forward, params, first, *batches[0])
        memory = (state.memory, self._after.init(params, sites))
        started = State(state.step, memory)
        if setting.activations != "int8":
            return started
        return self._calibrated(params, started, [(first, *x) for x in batches])


def _ship(
    shipping: Shipping,
    task: Task,
    trained: Trained,
    state: State,
    directory: pathlib.Path,
    seed: int,
) -> dict[str, Any]:
    """Exports, evaluates what was exported, and puts the result together."""
    config, shared = shipping.config, shipping.shared
    arrays = (trained.state.params, state, trained.state.model_state)
    reference = evaluate(lambda *x: shared.trained(*arrays, *x), task, task.test)
    artifact, measured = _exported(shipping, task, trained, state, directory, seed)
    served, validation = measured["test"], measured.get("validation")
    scalars = transforms.metrics(shared.transform, state)
    return {
        "format_version": FORMAT_VERSION,
        "row": config.name,
        "seed": seed,
        "config_hash": config_hash(config),
        "data_hash": data_hash(task),
        "task": config.task,
        "metric": task.judge.described(),
        "score": served.score,
        "trained_score": reference.score,
        "validation_score": validation.score if validation else None,
        "extras": dict(served.extras),
        "agreement": _agreement(served, reference),
        **pack_items(served.values),
        "num_test": int(served.values.size),
        "techniques": _techniques(config),
        "sparsity": float(scalars.get("sparsity", 0.0)),
        "train_seconds": trained.seconds,
        "train_steps": stage_starts(config)[-1],
        "checkpoint_hash": hash_of(trained.state),
        "artifact": "artifact",
        "units": surviving_units(trained.boundaries),
        **_described(config, task, trained, artifact, directory),
    }


def _exported(
    shipping: Shipping,
    task: Task,
    trained: Trained,
    state: State,
    directory: pathlib.Path,
    seed: int,
) -> tuple[Artifact, dict[str, Evaluation]]:
    """The artifact, and how it does on the `test` and the `validation` set."""
    config, shared = shipping.config, shipping.shared
    measured: dict[str, Evaluation] = {}

    def measure(artifact: Artifact) -> dict[str, Any]:
        if task.validation is not None:
            measured["validation"] = evaluate(artifact, task, task.validation)
        measured["test"] = evaluate(artifact, task, task.test)
        return {task.judge.name: measured["test"].score, **measured["test"].extras}

    artifact = export(
        directory / "artifact",
        shared.forward,
        trained.state.params,
        shared.transform,
        state,
        model_state=trained.state.model_state,
        batches=calibration_batches(config, task, seed, _MAX_BATCHES),
        platforms=config.export.platforms,
        static_batch=config.export.static_batch,
        lowering=config.export.lowering,
        tolerance=config.export.tolerance,
        classifies=task.classifies,
        classes=task.classes,
        sample_rate=task.sample_rate,
        evaluate=measure,
        config=config.model_dump(mode="json"),
        metadata={"seed": seed, **_phases(trained)},
        overwrite=True,
        shared=shared,
    )
    return artifact, measured


def _described(
    config: Config,
    task: Task,
    trained: Trained,
    artifact: Artifact,
    directory: pathlib.Path,
) -> dict[str, Any]:
    """What was shipped, and what boundaries between phases and files had to say."""
    whole = None
    if any(boundary.keep for boundary in trained.boundaries):
        model = build_model(task, config.task, config.model, jax.random.key(0))
        arrays = jax.tree.leaves((model.params, model.model_state))
        whole = sum(array.size for array in arrays)
    described = describe_artifact(artifact, num_float_parameters=whole)
    said = [line for boundary in trained.boundaries for line in boundary.records]
    said += input_records(task, directory)
    return {**described, "records": [*described["records"], *said]}


def _phases(trained: Trained) -> dict[str, Any]:
    """What an artifact must say for its model to be built again."""
    boundaries = trained.boundaries
    return {"phases": boundaries_json(boundaries)} if boundaries else {}


def _inference(model: Model) -> Callable[..., Any]:
    """`(params, model_state, *inputs) -> outputs`."""

    def forward(params: PyTree, model_state: PyTree, *inputs: Any) -> Any:
        return model.forward(params, model_state, *inputs)[0]

    return forward


def _agreement(served: Evaluation, reference: Evaluation) -> float | None:
    """Fraction of decisions that are the same; None if the outputs decide nothing."""
    if served.decisions is None or reference.decisions is None:
        return None
    return float(np.mean(served.decisions == reference.decisions))


def describe_artifact(
    artifact: Artifact, num_float_parameters: int | None = None
) -> dict[str, Any]:
    """What an artifact weighs and computes, in every accounting.

    A model's state counts among the arrays that are neither pruned nor quantized.

    Args:
      artifact: What was shipped.
      num_float_parameters: Of the network before units were removed; None if none
        were.
    """
    manifest = artifact.manifest
    sites = manifest["sites"]
    bits = {site["path"]: site["weight_bits"] for site in sites if site["path"]}
    scales = {n: x for n, x in artifact.weights.items() if n.endswith("::scale")}
    weights = {name: (artifact.weights[name], width) for name, width in bits.items()}
    others = {
        name: array
        for name, array in artifact.weights.items()
        if name not in weights and name not in scales
    }
    sizes = size_accounting(
        weights,
        scales=scales,
        others=others,
        file_bytes=manifest["files"]["weights.safetensors"]["bytes"],
        num_float_parameters=num_float_parameters,
    )
    programs = program_files(manifest)
    skipped = [f"{s['name']}: {s['reason']}" for s in sites if s["reason"]]
    return {
        "program_bytes": sum(manifest["files"][name]["bytes"] for name in programs),
        "macs": sum(site["macs"] for site in sites),
        "sites": sites,
        "sizes": sizes,
        "records": skipped,
    }


def _techniques(config: Config) -> list[str]:
    """In the order of the stages where they start."""
    starts = {
        name: [i for i, stage in enumerate(config.stages) if getattr(stage, name)]
        for name in ("prune", "shrink", "distill", "quantize")
    }
    used = sorted((name for name in starts if starts[name]), key=lambda n: starts[n][0])
    return [*used, *(["ptq"] if config.export.quantize is not None else [])]
