"""The training loop: chunks on the device, metrics and checkpoints between them."""

import contextlib
import json
import os
import pathlib
import signal
import time
from types import FrameType
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

import compress.transform as transforms
from compress.adapters import Model
from compress.config import Config, config_hash
from compress.machine import describe_machine
from compress.schedule import (
    TrainState,
    build_chunk,
    build_step,
    build_transform,
    init_state,
    stage_starts,
)
from compress.schedule.techniques import Teacher
from compress.task import Task, TaskError, build_model
from compress.train.checkpoints import CheckpointError, Checkpoints
from compress.train.evaluate import evaluate
from compress.train.metrics import MetricsLog
from compress.train.progress import ProgressBar, progress_bar
from compress.train.provenance import data_hash, git_commit, versions
from compress.transform import Transform


class RunError(RuntimeError):
    """A run that cannot start or go on."""


class Trained(NamedTuple):
    """A finished run.

    Attributes:
      state: After the last step.
      model: Its parameters are those from before training.
      transform: The chain it was trained with.
      seconds: Spent training in this process.
      compilations: Of the train step; one for the whole schedule.
    """

    state: TrainState
    model: Model
    transform: Transform
    seconds: float
    compilations: int


def train(
    config: Config,
    task: Task,
    directory: pathlib.Path,
    *,
    seed: int,
    teacher: Teacher | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> Trained:
    """Trains one model through all stages of a config.

    Args:
      config: The run.
      task: Its task.
      directory: Of the run; gets `run.json`, `metrics.jsonl` and `checkpoints/`.
      seed: Of initialization, data order, augmentation and dropout.
      teacher: What to distill from.
      resume: Goes on from the newest checkpoint, if there is one; bit-exactly.
      quiet: Shows no progress bar.

    Raises:
      RunError: If the loss stops being finite, or the directory is in use.
      CheckpointError: If its checkpoints are of another config.
    """
    _check_data(config, task)
    init_key, run_key = jax.random.split(jax.random.key(seed))
    model = build_model(task, config.task, config.model, init_key)
    transform = build_transform(config, teacher)
    state = init_state(config, task, model, transform, run_key)
    _check_step(config, task, model, transform, state)
    identity = f"{config_hash(config)}-seed{seed}"
    _prepare(directory, config, task, seed, identity, resume)
    checkpoints = Checkpoints(
        directory / "checkpoints", keep=config.keep_checkpoints, identity=identity
    )
    try:
        if resume and checkpoints.latest is not None:
            state = checkpoints.load(state)
            logging.info("%s: resumed at step %d", directory, checkpoints.latest)
        # On its device for good: a state half placed would compile the step twice.
        state = jax.device_put(state, jax.devices()[0])
        run = _Run(config, task, model, transform, directory, checkpoints)
        trained = run.to_the_end(state, quiet)
    except BaseException:
        # What went wrong is told; that closing went wrong as well is not.
        with contextlib.suppress(CheckpointError):
            checkpoints.close()
        raise
    checkpoints.close()
    return trained


class _Run:
    """One run, from its restored or first state to its last."""

    def __init__(
        self,
        config: Config,
        task: Task,
        model: Model,
        transform: Transform,
        directory: pathlib.Path,
        checkpoints: Checkpoints,
    ) -> None:
        self.config, self.task, self.model = config, task, model
        self.transform, self.directory = transform, directory
        self.checkpoints = checkpoints
        self.starts = stage_starts(config)
        self.chunk = build_chunk(config, task, model, transform)
        self.predict = jax.jit(self._predict)

    def _predict(self, state: TrainState, *inputs: Any) -> Any:
        compressed = transforms.apply(self.model.forward, self.transform)
        return compressed(state.params, state.compression, state.model_state, *inputs)[
            0
        ]

    def to_the_end(self, state: TrainState, quiet: bool) -> Trained:
        begin, total = int(state.compression.step), self.starts[-1]
        data = jax.device_put(dict(self.task.train), jax.devices()[0])
        started = time.monotonic()
        with (
            _Terminated() as terminated,
            MetricsLog(self.directory, resumed_at=begin) as log,
            progress_bar(self.directory.name, total, quiet=quiet) as bar,
        ):
            step = begin
            while step < total:
                count = min(self.config.log_every, total - step)
                state, metrics = self.chunk.run(state, data, count)
                values = self._check(step, count, metrics)
                step += count
                due = self._is_due(step, count) or terminated.seen or step == total
                self._record(step, state, values, due, log, bar)
                if terminated.seen and step < total:
                    self.checkpoints.close()
                    logging.warning(
                        "SIGTERM: saved at step %d; --resume goes on.", step
                    )
                    raise SystemExit(128 + signal.SIGTERM)
        transforms.check(self.transform, state.params, state.compression)
        seconds = time.monotonic() - started
        compilations = self.chunk.compilations()
        return Trained(state, self.model, self.transform, seconds, compilations)

    def _is_due(self, step: int, count: int) -> bool:
        every = self.config.checkpoint_every
        return step // every > (step - count) // every

    def _check(self, step: int, count: int, metrics: Any) -> dict[str, float]:
        """The metrics of a chunk: the mean loss, the last of everything else."""
        host = {name: np.asarray(x)[:count] for name, x in metrics.items()}
        bad = np.flatnonzero(~np.isfinite(host["loss"]))
        if bad.size:
            first = step + int(bad[0])
            good = self.checkpoints.latest
            raise RunError(
                f"{self.directory}: the loss is {host['loss'][bad[0]]} at step "
                f"{first + 1}, in stage {self._stage(first)!r} of config "
                f"{self.config.name!r}. Lower its learning_rate or set "
                f"optimizer.clip_norm. The newest good checkpoint: {good}."
            )
        means = {name: float(host[name].mean()) for name in ("loss", "accuracy")}
        return {**{name: float(x[-1]) for name, x in host.items()}, **means}

    def _record(
        self,
        step: int,
        state: TrainState,
        values: dict[str, float],
        due: bool,
        log: MetricsLog,
        bar: ProgressBar,
    ) -> None:
        if due:
            # Saved first: an evaluation that fails must not cost the checkpoint.
            self.checkpoints.save(step, state)
            data = self.task.validation or self.task.test
            predict = lambda *x: self.predict(state, *x)  # noqa: E731
            values["eval_accuracy"] = evaluate(predict, self.task, data).accuracy
        stage = self._stage(step - 1)
        log.write(step, stage=stage, **values)
        shown = ("loss", "sparsity", "eval_accuracy")
        bar.show(step, stage, {n: values[n] for n in shown if n in values})

    def _stage(self, step: int) -> str:
        passed = sum(start <= step for start in self.starts[:-1])
        return self.config.stages[passed - 1].name


class _Terminated:
    """Notes a SIGTERM, so that the run can save before it ends."""

    def __init__(self) -> None:
        self.seen = False
        self._before: Any = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.seen = True

    def __enter__(self) -> "_Terminated":
        try:
            self._before = signal.signal(signal.SIGTERM, self._note)
        except ValueError:  # not the main thread: whoever owns it handles signals
            self._before = None
        return self

    def __exit__(self, *error: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)


def _check_data(config: Config, task: Task) -> None:
    examples = len(next(iter(task.train.values())))
    if config.batch_size > examples:
        raise TaskError(
            f"batch_size={config.batch_size} is larger than the {examples} training "
            f"examples of {config.task}. Use at most {examples}."
        )
    for part in ("train", "validation", "test"):
        for name, array in (getattr(task, part) or {}).items():
            x = np.asarray(array)
            if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
                raise TaskError(
                    f"{config.task}: {part}[{name!r}] holds NaN or infinity. Clean the "
                    "data."
                )


def _check_step(
    config: Config, task: Task, model: Model, transform: Transform, state: TrainState
) -> None:
    """Traces one step, so that whatever does not fit is found before work starts."""
    batch = {
        name: jax.ShapeDtypeStruct((config.batch_size, *x.shape[1:]), x.dtype)
        for name, x in task.train.items()
    }
    jax.eval_shape(build_step(config, task, model, transform), state, batch)


def _prepare(
    directory: pathlib.Path,
    config: Config,
    task: Task,
    seed: int,
    identity: str,
    resume: bool,
) -> None:
    """Makes the run directory and writes down what is needed to run it again."""
    if (directory / "checkpoints").exists() and not resume:
        raise RunError(
            f"{directory}: holds a run already. Pass --resume to go on with it, or "
            "choose another --workdir."
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        provenance = {
            "identity": identity,
            "seed": seed,
            "data_hash": data_hash(task),
            "git_commit": git_commit(),
            "versions": versions(),
            "machine": describe_machine(),
        }
        write_json(directory / "run.json", provenance)
        write_json(directory / "config.json", config.model_dump(mode="json"))
    except OSError as error:
        raise RunError(f"{directory}: cannot be written ({error.strerror}).") from error


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes JSON under a temporary name first, so that no half file is left."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
