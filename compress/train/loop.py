"""The training loop: chunks on the device, metrics and checkpoints between them."""

import pathlib
import signal
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

import compress.transform as transforms
from compress import processes
from compress.adapters import Model
from compress.config import Config
from compress.schedule import (
    Placement,
    TrainState,
    build_chunk,
    open_data,
    place,
    split_phases,
    stage_starts,
)
from compress.schedule.techniques import Teacher
from compress.task import Task
from compress.train.between import (
    is_due,
    not_finite,
    seconds_before,
    stage_name,
    summarized,
)
from compress.train.boundaries import Boundary, read_boundaries, write_boundaries
from compress.train.checkpoints import Checkpoints
from compress.train.checks import check_data, check_phases
from compress.train.crossing import cross, cross_together, with_notes
from compress.train.directory import (
    RunError,
    claimed,
    write_provenance,
)
from compress.train.evaluate import evaluate
from compress.train.metrics import EVALUATED, MetricsLog, read_metrics
from compress.train.phases import Entered, Job, Measure, run_key, start
from compress.train.progress import ProgressBar, progress_bar
from compress.train.restore import (
    open_checkpoints,
    placed,
    remember_scores,
    restored,
    score_of,
)
from compress.train.signals import Terminated
from compress.transform import Transform


class Trained(NamedTuple):
    """A finished run.

    Attributes:
      state: After the last step, and after what was removed there; whole, on the
        first device of each process.
      model: Its forward takes the parameters of `state`; its own are from before
        training, or from where the last phase was entered.
      transform: The chain of the last phase.
      seconds: Spent training, in this and earlier processes.
      compilations: Of the train step in this process; one per phase.
      boundaries: What was decided between the phases: units kept, masks fixed.
    """

    state: TrainState
    model: Model
    transform: Transform
    seconds: float
    compilations: int
    boundaries: tuple[Boundary, ...]


def train(
    config: Config,
    task: Task,
    directory: pathlib.Path,
    *,
    seed: int,
    teacher: Teacher | None = None,
    measure: Measure | None = None,
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
      measure: What times a choice of units, for a budget of latency.
      resume: Goes on from the newest checkpoint, if there is one; bit-exactly.
      quiet: Shows no progress bar.

    Raises:
      RunError: If the loss stops being finite, or the directory is in use.
      CheckpointError: If its checkpoints are of another config.
      ValueError: If the mesh is not all devices, or a rule of sharding does not fit.
    """
    check_data(config, task)
    job = Job(config, task, teacher, seed, measure)
    entered = check_phases(job)[0]
    placement = place(config, entered.model.params)
    processes.on_primary(lambda: _check_unused(directory, resume))
    with (
        claimed(directory),
        Terminated() as terminated,  # until everything is on disk
        open_checkpoints(config, task, directory, seed) as checkpoints,
    ):
        begins = checkpoints.latest is None
        processes.on_primary(
            lambda: write_provenance(
                directory, config, task, seed, program_seeds=(seed,), begins=begins
            )
        )
        if begins:
            state = placement.put(start(job, entered, run_key(job)))
        else:
            found = restored(job, directory, checkpoints)
            if found.damaged:
                aside = checkpoints.set_aside(found.damaged)
                logging.warning("%s: the damaged are now in it.", aside)
            entered, placement, state = found.entered, found.placement, found.state
            logging.info("%s: resumed at step %d", directory, checkpoints.latest)
            remember_scores(task, directory, checkpoints)
        run = _Run(job, entered, placement, directory, checkpoints)
        return run.to_the_end(state, terminated, quiet)


def _check_unused(directory: pathlib.Path, resume: bool) -> None:
    if (directory / "checkpoints").exists() and not resume:
        raise RunError(
            f"{directory}: holds a run already. Pass --resume to go on with it, or "
            "choose another --workdir."
        )


def finished(
    config: Config,
    task: Task,
    directory: pathlib.Path,
    *,
    seed: int,
    teacher: Teacher | None = None,
) -> Trained | None:
    """The run in `directory`, if it reached its last step; only reads.

    Raises:
      CheckpointError: If its checkpoints are of another run.
    """
    if not (directory / "checkpoints").exists():
        return None
    with open_checkpoints(config, task, directory, seed, read_only=True) as checkpoints:
        if checkpoints.latest != stage_starts(config)[-1]:
            return None
        job = Job(config, task, teacher, seed)
        found = restored(job, directory, checkpoints)
        if found.damaged:
            return None
        entered, state = found.entered, found.placement.whole(found.state)
        for known in read_boundaries(directory)[entered.phase.index :]:
            entered, state = cross(job, entered, state, known)
        if entered.phase != split_phases(config)[-1]:
            return None
        lines = read_metrics(directory / "metrics.jsonl")
        seconds = lines[-1]["seconds"] if lines else 0.0
        return Trained(
            state, entered.model, entered.transform, seconds, 0, entered.boundaries
        )


class _Run:
    """One run, from its restored or first state to its last."""

    def __init__(
        self,
        job: Job,
        entered: Entered,
        placement: Placement,
        directory: pathlib.Path,
        checkpoints: Checkpoints,
    ) -> None:
        self.job, self.directory, self.checkpoints = job, directory, checkpoints
        self.config, self.task = job.config, job.task
        self.starts = stage_starts(job.config)
        self.phases = split_phases(job.config)
        self.compilations = 0
        self._enter(entered, placement)

    def _enter(self, entered: Entered, placement: Placement) -> None:
        """Builds the programs of a phase."""
        self.entered, self.placement = entered, placement
        model, transform = entered.model, entered.transform
        self.chunk = build_chunk(self.config, self.task, model, transform, placement)
        self.predict = jax.jit(self._predict)

    def _predict(self, state: TrainState, *inputs: Any) -> Any:
        entered = self.entered
        compressed = transforms.apply(entered.model.forward, entered.transform)
        inputs = self.placement.split(inputs)
        outputs, _ = compressed(
            state.params, state.compression, state.model_state, *inputs
        )
        return self.placement.gather(outputs)

    def to_the_end(
        self, state: TrainState, terminated: Terminated, quiet: bool
    ) -> Trained:
        begin, total = int(state.compression.step), self.starts[-1]
        self.started = time.monotonic() - seconds_before(self.directory, begin)
        data = open_data(self.config, self.task, state, self.placement)
        quiet = quiet or not processes.is_primary()
        with (
            MetricsLog(self.directory, resumed_at=begin) as log,
            progress_bar(self.directory.name, total, quiet=quiet) as bar,
        ):
            state = self._phase(state, data, terminated, log, bar)
            while self.entered.phase != self.phases[-1]:
                state = self._cross(state)
                state = self._phase(state, data, terminated, log, bar)
        seconds = time.monotonic() - self.started
        model, transform = self.entered.model, self.entered.transform
        boundaries = self.entered.boundaries
        return Trained(state, model, transform, seconds, self.compilations, boundaries)

    def _phase(
        self,
        state: TrainState,
        data: Any,
        terminated: Terminated,
        log: MetricsLog,
        bar: ProgressBar,
    ) -> TrainState:
        """Trains to the end of the phase; returns the whole state."""
        step, end = int(state.compression.step), self.entered.phase.end
        while step < end:
            count = min(self.config.log_every, end - step)
            state, metrics = self.chunk.run(state, data, count)
            values = self._check(step, count, metrics)
            step += count
            # Also where a phase ends: what comes next may take long, or fail.
            stop = processes.any_of(terminated.seen)
            due = is_due(self.config, step, count) or stop or step == end
            self._record(step, state, values, due, log, bar)
            if stop and step < self.starts[-1]:
                self.checkpoints.close()
                logging.warning("SIGTERM: saved at step %d; --resume goes on.", step)
                raise SystemExit(128 + signal.SIGTERM)
        self.compilations += self.chunk.compilations()
        state = self.placement.whole(state)
        transforms.check(self.entered.transform, state.params, state.compression)
        return state

    def _cross(self, state: TrainState) -> TrainState:
        """Enters the next phase; what was decided is on disk before it trains.

        On one device, so that what is decided does not depend on the mesh.
        """
        boundaries = read_boundaries(self.directory)
        index = self.entered.phase.index
        known = boundaries[index] if index < len(boundaries) else None
        entered, state = cross_together(self.job, self.entered, state, known)
        placement = placed(self.job, entered)
        for note in placement.plan.notes:
            logging.warning("step %d: %s", entered.phase.start, note)
        entered = with_notes(entered, placement.plan.notes)
        processes.on_primary(
            lambda: write_boundaries(self.directory, entered.boundaries)
        )
        self._enter(entered, placement)
        return placement.put(state)

    def _check(self, step: int, count: int, metrics: Any) -> dict[str, float]:
        """The metrics of a chunk, whose losses are finite."""
        host = {name: np.asarray(x)[:count] for name, x in metrics.items()}
        seed = self.job.seed
        error = not_finite(self.config, self.directory, seed, step, host["loss"])
        if error is not None:
            good = self.checkpoints.latest
            raise RunError(f"{error} The newest good checkpoint: {good}.")
        return summarized(host)

    def _record(
        self,
        step: int,
        state: TrainState,
        values: dict[str, float],
        due: bool,
        log: MetricsLog,
        bar: ProgressBar,
    ) -> None:
        stage = stage_name(self.config, step - 1)
        if due:
            # Saved first: an evaluation that fails must not cost the checkpoint.
            self.checkpoints.save(step, state)
            data = self.task.validation or self.task.test
            predict = lambda *x: self.placement.whole(self.predict(state, *x))  # noqa: E731
            values[EVALUATED] = evaluate(predict, self.task, data).score
            score = score_of(self.task, stage, values[EVALUATED])
            self.checkpoints.scored(step, score)
        seconds = round(time.monotonic() - self.started, 3)
        log.write(step, stage=stage, seconds=seconds, **values)
        shown = ("loss", "sparsity", EVALUATED)
        bar.show(step, stage, {n: values[n] for n in shown if n in values})
