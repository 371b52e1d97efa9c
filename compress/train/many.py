"""Trains several runs in one program: of several seeds, and of several numbers.

Each run ends up in a folder like that of its own: metrics, provenance and its last
checkpoint. On the way there one folder holds the checkpoints of all; it goes when every
run is done.
"""

import contextlib
import json
import pathlib
import shutil
import signal
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

import compress.transform as transforms
from compress.config import numbers_of, with_numbers
from compress.files import write_text
from compress.schedule import (
    Here,
    Together,
    TrainState,
    Whose,
    build_many_chunk,
    build_transform,
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
from compress.train.checkpoints import Checkpoints
from compress.train.checks import check_data, check_phases, state_shapes
from compress.train.directory import claimed, write_provenance
from compress.train.evaluate import evaluate
from compress.train.loop import Trained, finished
from compress.train.members import MEMBERS, Member, Place, member_of, members_of
from compress.train.metrics import MetricsLog
from compress.train.phases import Job, first_phase, run_key, start
from compress.train.restore import newest_good, open_checkpoints
from compress.train.signals import Terminated
from compress.transform import Transform

_Key = TypeVar("_Key", bound=Hashable)


def train_many(
    places: Mapping[_Key, Place],
    task: Task,
    group: pathlib.Path,
    *,
    teacher: Teacher | None = None,
) -> dict[_Key, Trained | Exception]:
    """Trains one model per place, all in one compiled program.

    What a killed process left is gone on with: from the group's newest checkpoint, or,
    for a run that was trained to its end, from its own.

    Args:
      places: The runs. Their configs have one phase and the same `program_hash`; see
        `compress.schedule.why_apart`.
      task: Of all.
      group: A directory for the time of training.
      teacher: What to distill from.

    Returns:
      The finished runs, or why they failed: a run whose loss stops being finite, or
      whose numbers do not suit the model, does not stop the others.

    Raises:
      RunError: If a directory is in use by another process.
      CheckpointError: If one holds checkpoints of another config.
    """
    done: dict[_Key, Trained | Exception] = {}
    problems: dict[str, Exception | None] = {}
    for key, place in places.items():
        own = str(numbers_of(place.config))
        run = finished(
            place.config, task, place.directory, seed=place.seed, teacher=teacher
        )
        if run is None and own not in problems:
            problems[own] = _problem(place, task, teacher)
        result = problems[own] if run is None else run
        if result is not None:
            done[key] = result
    left = {key: place for key, place in places.items() if key not in done}
    if left:
        done |= _trained(left, task, group, teacher)
    return _of_one_program(places, done)


def _problem(place: Place, task: Task, teacher: Teacher | None) -> Exception | None:
    """What of a run's own numbers does not suit the model."""
    check_data(place.config, task)
    job = Job(place.config, task, teacher, place.seed)
    try:
        state_shapes(job, first_phase(job))
    except ValueError as error:
        return error
    return None


def _trained(
    places: Mapping[_Key, Place],
    task: Task,
    group: pathlib.Path,
    teacher: Teacher | None,
) -> dict[_Key, Trained | Exception]:
    first = next(iter(places.values()))
    job = Job(first.config, task, teacher, first.seed)
    check_phases(job)
    wanted = [member_of(place) for place in places.values()]
    with claimed(group):
        members = members_of(group, first.config, task, wanted)
        at = {key: members.index(m) for key, m in zip(places, wanted)}
        own = {at[key]: place for key, place in places.items()}
        runs = _Group(job, members, own, group).trained()
    shutil.rmtree(group)
    return {key: runs[at[key]] for key in places}


def _of_one_program(
    places: Mapping[_Key, Place], runs: Mapping[_Key, Trained | Exception]
) -> dict[_Key, Trained | Exception]:
    """The runs with the functions of the first: what uses them is compiled once."""
    found: dict[_Key, Trained | Exception] = {}
    transforms_of: dict[str, Transform] = {}
    forward = None
    for key, place in places.items():
        run = runs[key]
        if isinstance(run, Trained):
            forward = forward or run.model.forward
            # Those of other numbers say so in their plans.
            own = str(numbers_of(place.config))
            transform = transforms_of.setdefault(own, run.transform)
            model = run.model._replace(forward=forward)
            run = run._replace(model=model, transform=transform)
        found[key] = run
    return found


class _Group:
    """Several runs, from their restored or first state to their last.

    Runs are counted as the members are; those of `places` are wanted.
    """

    def __init__(
        self,
        job: Job,
        members: Sequence[Member],
        places: Mapping[int, Place],
        directory: pathlib.Path,
    ) -> None:
        self.job, self.config, self.task = job, job.config, job.task
        self.members, self.places, self.directory = members, places, directory
        numbers = list({str(m.numbers): m.numbers for m in members}.values())
        self.which = [numbers.index(member.numbers) for member in members]
        self.jobs = [
            job._replace(config=with_numbers(job.config, own)) for own in numbers
        ]
        self.entered = [first_phase(job) for job in self.jobs]
        self.model = self.entered[0].model
        self.starts = stage_starts(job.config)
        self.how: Together = together(self.entered[0].links)
        self.failed: dict[int, Exception] = {}
        configs = [job.config for job in self.jobs]
        self.whose = Whose(configs, jnp.asarray(self.which, jnp.int32))
        self.chunk = build_many_chunk(
            self.whose, job.task, self.model, self._chain_of, self.how
        )
        self.predict = jax.jit(self._predict)
        self.pick = jax.jit(self.how.pick)

    def _chain_of(self, whose: Whose) -> Transform:
        here = Here(self.entered[0].phase, whose=whose)
        return build_transform(self.config, self.job.teacher, here)

    def _predict(self, state: TrainState, index: Any, *inputs: Any) -> Any:
        one = self.how.pick(state, index)
        which = jnp.asarray(self.which, jnp.int32)[index]
        own = self.whose._replace(index=which)
        compressed = transforms.apply(self.model.forward, self._chain_of(own))
        return compressed(one.params, one.compression, one.model_state, *inputs)[0]

    def _start(self) -> TrainState:
        """The state in which each run would start alone."""
        states = []
        for member, which in zip(self.members, self.which):
            job = self.jobs[which]._replace(seed=member.seed)
            model = first_phase(job).model._replace(forward=self.model.forward)
            entered = self.entered[which]._replace(model=model)
            states.append(start(job, entered, run_key(job)))
        return self.how.stack(states)

    def trained(self) -> dict[int, Trained | Exception]:
        """Trains to the end; each run's last checkpoint is in its own directory."""
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
                run: stack.enter_context(MetricsLog(p.directory, resumed_at=begin))
                for run, p in self.places.items()
            }
            state = self._to_the_end(state, checkpoints, logs, terminated)
            seconds = self.seconds
            return {run: self._finish(run, state, seconds) for run in self.places}

    def _write_provenance(self, *, begins: bool) -> None:
        for place in self.places.values():
            write_provenance(
                place.directory,
                place.config,
                self.task,
                place.seed,
                program_seeds=[member.seed for member in self.members],
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
            identity=(self.directory / MEMBERS).read_text(),
        )

    def _seconds_before(self, step: int) -> float:
        """What earlier processes spent on the steps that are not done again, in all."""
        first = next(iter(self.places.values()))
        return seconds_before(first.directory, step) * len(self.members)

    @property
    def seconds(self) -> float:
        """Each run's share of the time spent."""
        return (time.monotonic() - self.started) / len(self.members)

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
        """By run the metrics of a chunk; one whose loss is not finite has failed."""
        host = {name: np.asarray(x)[:count] for name, x in metrics.items()}
        found = {}
        for run, place in self.places.items():
            own = {name: x[:, run] for name, x in host.items()}
            error = not_finite(*place, step, own["loss"])
            if error is not None and run not in self.failed:
                self.failed[run] = error
            found[run] = summarized(own)
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
        for run in self.places:
            if run in self.failed:
                continue
            own = dict(values[run])
            if due:
                data = self.task.validation or self.task.test
                predict = self._predictor(state, run)
                own["eval_score"] = evaluate(predict, self.task, data).score
            logs[run].write(step, stage=stage, seconds=seconds, **own)

    def _predictor(self, state: TrainState, run: int) -> Callable[..., Any]:
        return lambda *inputs: self.predict(state, run, *inputs)

    def _finish(
        self, run: int, state: TrainState, seconds: float
    ) -> Trained | Exception:
        """A run, saved as if it had been alone."""
        if run in self.failed:
            return self.failed[run]
        own = self.pick(state, run)
        transform, place = self.entered[self.which[run]].transform, self.places[run]
        try:
            transforms.check(transform, own.params, own.compression)
        except transforms.ContractError as error:
            return error
        save_last(place, self.task, own)
        model = self.model._replace(params=own.params, model_state=own.model_state)
        compilations = self.chunk.compilations()
        return Trained(own, model, transform, seconds, compilations, ())


def adopt(trained: Trained, source: pathlib.Path, place: Place, task: Task) -> None:
    """Makes a directory that of a run which another config has made: the same training.

    Args:
      trained: The run.
      source: Its directory.
      place: Of the config that differs in nothing that is trained.
      task: Of both.
    """
    with claimed(place.directory):
        run = json.loads((source / "run.json").read_text())
        write_provenance(
            place.directory,
            place.config,
            task,
            place.seed,
            program_seeds=run.get("program_seeds"),
            begins=True,
        )
        log = (source / "metrics.jsonl").read_text()
        write_text(place.directory / "metrics.jsonl", log)
        if trained.boundaries:
            write_boundaries(place.directory, trained.boundaries)
        save_last(place, task, trained.state)


def save_last(place: Place, task: Task, state: TrainState) -> None:
    """Saves the state after the last step as the checkpoint of a run of its own."""
    config, directory, seed = place
    step = stage_starts(config)[-1]
    with open_checkpoints(config, task, directory, seed) as checkpoints:
        checkpoints.save(step, state)
