"""Trains several seeds of one config in one program.

Each seed ends up in a folder like that of its own run: metrics, provenance and its last
checkpoint. On the way there one folder holds the checkpoints of all; it goes when every
seed is done.
"""

import contextlib
import json
import pathlib
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

import compress.transform as transforms
from compress.config import Config, config_hash
from compress.files import write_json, write_text
from compress.schedule import (
    Together,
    TrainState,
    build_many_chunk,
    stage_starts,
    together,
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
from compress.train.boundaries import write_boundaries
from compress.train.checkpoints import CheckpointError, Checkpoints
from compress.train.checks import check_data, check_phases
from compress.train.directory import claimed, write_provenance
from compress.train.evaluate import evaluate
from compress.train.loop import Trained, finished
from compress.train.metrics import MetricsLog
from compress.train.phases import Entered, Job, first_phase, run_key, start, with_arrays
from compress.train.provenance import data_hash
from compress.train.restore import newest_good, open_checkpoints
from compress.train.signals import Terminated

_MEMBERS = "group.json"


class Place(NamedTuple):
    """Where a seed's run goes.

    Attributes:
      config: Its config; those of one group differ in nothing that is trained.
      directory: Its own.
    """

    config: Config
    directory: pathlib.Path


def train_many(
    places: Mapping[int, Place],
    task: Task,
    group: pathlib.Path,
    *,
    teacher: Teacher | None = None,
) -> dict[int, Trained | Exception]:
    """Trains one model per seed, all in one compiled program.

    What a killed process left is gone on with: from the group's newest checkpoint, or,
    for a seed that was trained to its end, from its own.

    Args:
      places: By seed. Their configs have one phase; see `compress.schedule.why_apart`.
      task: Of all.
      group: A directory for the time of training.
      teacher: What to distill from.

    Returns:
      By seed, the finished run, or why it failed: a seed whose loss stops being finite
      does not stop the others.

    Raises:
      RunError: If a directory is in use by another process.
      CheckpointError: If one holds checkpoints of another config.
    """
    first = next(iter(places.values())).config
    check_data(first, task)
    done: dict[int, Trained | Exception] = {
        seed: run
        for seed, place in places.items()
        if (run := finished(place.config, task, place.directory, seed=seed,
                            teacher=teacher)) is not None
    }  # fmt: skip
    left = [seed for seed in places if seed not in done]
    if left:
        job = Job(first, task, teacher, left[0])
        entered = check_phases(job)[0]
        with claimed(group):
            members = _members(group, first, task, left)
            done.update(_Group(job, entered, members, places, group).trained())
        shutil.rmtree(group)
    return {seed: _of_one_program(done[seed], done) for seed in places}


def _of_one_program(run: Trained | Exception, runs: Mapping[int, Any]) -> Any:
    """The run with the functions of the first: what uses them is compiled once."""
    if isinstance(run, Exception):
        return run
    like = next(r for r in runs.values() if isinstance(r, Trained))
    model = run.model._replace(forward=like.model.forward)
    return run._replace(model=model, transform=like.transform)


def _members(
    group: pathlib.Path, config: Config, task: Task, seeds: Sequence[int]
) -> list[int]:
    """The seeds that are trained: those of the group's checkpoints, if it has some."""
    identity = f"config {config_hash(config)[:16]}, data {data_hash(task)[:16]}"
    path = group / _MEMBERS
    if path.exists():
        known = json.loads(path.read_text())
        if known["identity"] != identity:
            raise CheckpointError(
                f"{group}: made by another config or data:\n"
                f"  there: {known['identity']}\n  here:  {identity}\n"
                "Go back to those, or choose another --workdir."
            )
        if set(seeds) <= set(known["seeds"]):
            return known["seeds"]
        # Of other seeds: these here begin together.
        shutil.rmtree(group / "checkpoints", ignore_errors=True)
    write_json(path, {"identity": identity, "seeds": list(seeds)})
    return list(seeds)


class _Group:
    """Several seeds, from their restored or first state to their last."""

    def __init__(
        self,
        job: Job,
        entered: Entered,
        seeds: Sequence[int],
        places: Mapping[int, Place],
        directory: pathlib.Path,
    ) -> None:
        self.job, self.config, self.task = job, job.config, job.task
        self.entered, self.seeds = entered, list(seeds)
        self.places = {seed: places[seed] for seed in seeds if seed in places}
        self.directory = directory
        self.starts = stage_starts(job.config)
        self.how: Together = together(entered.links)
        self.failed: dict[int, Exception] = {}
        self.chunk = build_many_chunk(
            job.config, job.task, entered.model, entered.transform, self.how
        )
        self.predict = jax.jit(self._predict)
        self.pick = jax.jit(self.how.pick)

    def _predict(self, state: TrainState, index: Any, *inputs: Any) -> Any:
        model, transform = self.entered.model, self.entered.transform
        one = self.how.pick(state, index)
        compressed = transforms.apply(model.forward, transform)
        return compressed(one.params, one.compression, one.model_state, *inputs)[0]

    def _start(self) -> TrainState:
        """The state in which each seed would start alone."""
        states = []
        for seed in self.seeds:
            job = self.job._replace(seed=seed)
            model = first_phase(job).model
            entered = with_arrays(self.entered, model.params, model.model_state)
            states.append(start(job, entered, run_key(job)))
        return self.how.stack(states)

    def trained(self) -> dict[int, Trained | Exception]:
        """Trains to the end; each seed's last checkpoint is in its own directory."""
        with contextlib.ExitStack() as stack:
            for place in self.places.values():
                stack.enter_context(claimed(place.directory))
            terminated = stack.enter_context(Terminated())
            checkpoints = stack.enter_context(self._checkpoints())
            self._write_provenance(begins=checkpoints.latest is None)
            state = self._start()
            if checkpoints.latest is not None:
                state = self._restored(checkpoints, state)
                logging.info("%s: resumed at %d", self.directory, checkpoints.latest)
            # On its device for good: a state half placed would compile twice.
            state = jax.device_put(state, jax.devices()[0])
            begin = int(state.compression.step)
            self.started = time.monotonic() - self._seconds_before(begin)
            logs = {
                seed: stack.enter_context(MetricsLog(p.directory, resumed_at=begin))
                for seed, p in self.places.items()
            }
            state = self._to_the_end(state, checkpoints, logs, terminated)
            seconds = self.seconds
            return {seed: self._finish(seed, state, seconds) for seed in self.places}

    def _write_provenance(self, *, begins: bool) -> None:
        for seed, (config, directory) in self.places.items():
            write_provenance(
                directory,
                config,
                self.task,
                seed,
                program_seeds=self.seeds,
                begins=begins,
            )

    def _restored(self, checkpoints: Checkpoints, like: TrainState) -> TrainState:
        state, damaged = newest_good(
            checkpoints, lambda step: checkpoints.load(step, like)
        )
        if damaged:
            checkpoints.set_aside(damaged)
        return state

    def _checkpoints(self) -> Checkpoints:
        return Checkpoints(
            self.directory / "checkpoints",
            keep=self.config.keep_checkpoints,
            identity=(self.directory / _MEMBERS).read_text(),
        )

    def _seconds_before(self, step: int) -> float:
        """What earlier processes spent on the steps that are not done again, in all."""
        first = next(iter(self.places.values()))
        return seconds_before(first.directory, step) * len(self.seeds)

    @property
    def seconds(self) -> float:
        """Each seed's share of the time spent."""
        return (time.monotonic() - self.started) / len(self.seeds)

    def _to_the_end(
        self,
        state: TrainState,
        checkpoints: Checkpoints,
        logs: Mapping[int, MetricsLog],
        terminated: Terminated,
    ) -> TrainState:
        data = jax.device_put(dict(self.task.train), jax.devices()[0])
        step, total = int(state.compression.step), self.starts[-1]
        while step < total and len(self.failed) < len(self.places):
            count = min(self.config.log_every, total - step)
            state, metrics = self.chunk.run(state, data, count)
            values = self._check(step, count, metrics)
            step += count
            due = is_due(self.config, step, count) or terminated.seen or step == total
            if due:
                checkpoints.save(step, state)
            self._record(step, state, values, due, logs)
            if terminated.seen and step < total:
                checkpoints.close()
                logging.warning("SIGTERM: saved at step %d; --resume goes on.", step)
                raise SystemExit(128 + signal.SIGTERM)
        return state

    def _check(
        self, step: int, count: int, metrics: Mapping[str, Any]
    ) -> dict[int, dict[str, float]]:
        """By seed the metrics of a chunk; one whose loss is not finite has failed."""
        host = {name: np.asarray(x)[:count] for name, x in metrics.items()}
        found = {}
        for index, seed in enumerate(self.seeds):
            own = {name: x[:, index] for name, x in host.items()}
            if seed in self.places and seed not in self.failed:
                place = self.places[seed]
                error = not_finite(*place, seed, step, own["loss"])
                if error is not None:
                    self.failed[seed] = error
            found[seed] = summarized(own)
        return found

    def _record(
        self,
        step: int,
        state: TrainState,
        values: Mapping[int, dict[str, float]],
        due: bool,
        logs: Mapping[int, MetricsLog],
    ) -> None:
        stage, seconds = stage_name(self.config, step - 1), round(self.seconds, 3)
        for index, seed in enumerate(self.seeds):
            if seed not in self.places or seed in self.failed:
                continue
            own = dict(values[seed])
            if due:
                data = self.task.validation or self.task.test
                predict = self._predictor(state, index)
                own["eval_score"] = evaluate(predict, self.task, data).score
            logs[seed].write(step, stage=stage, seconds=seconds, **own)

    def _predictor(self, state: TrainState, index: int) -> Callable[..., Any]:
        return lambda *inputs: self.predict(state, index, *inputs)

    def _finish(
        self, seed: int, state: TrainState, seconds: float
    ) -> Trained | Exception:
        """The run of one seed, saved as if it had been alone."""
        if seed in self.failed:
            return self.failed[seed]
        own = self.pick(state, self.seeds.index(seed))
        entered, place = self.entered, self.places[seed]
        try:
            transforms.check(entered.transform, own.params, own.compression)
        except transforms.ContractError as error:
            return error
        save_last(place, self.task, seed, own)
        model = entered.model._replace(params=own.params, model_state=own.model_state)
        compilations = self.chunk.compilations()
        return Trained(own, model, entered.transform, seconds, compilations, ())


def adopt(
    trained: Trained, source: pathlib.Path, place: Place, task: Task, seed: int
) -> None:
    """Makes a directory that of a run which another config has made: the same training.

    Args:
      trained: The run.
      source: Its directory.
      place: Of the config that differs in nothing that is trained.
      task: Of both.
      seed: Of both.
    """
    with claimed(place.directory):
        run = json.loads((source / "run.json").read_text())
        write_provenance(
            place.directory,
            place.config,
            task,
            seed,
            program_seeds=run.get("program_seeds"),
            begins=True,
        )
        log = (source / "metrics.jsonl").read_text()
        write_text(place.directory / "metrics.jsonl", log)
        if trained.boundaries:
            write_boundaries(place.directory, trained.boundaries)
        save_last(place, task, seed, trained.state)


def save_last(place: Place, task: Task, seed: int, state: TrainState) -> None:
    """Saves the state after the last step as the checkpoint of a seed's own run."""
    step = stage_starts(place.config)[-1]
    with open_checkpoints(place.config, task, place.directory, seed) as checkpoints:
        checkpoints.save(step, state)
