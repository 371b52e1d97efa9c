"""A search: optuna chooses the runs of a sweep from what earlier ones gave.

What it chose and was told is in `search.journal`, a file of optuna's. Trial k is a
function of the search's seed, k, and the trials before its batch, so that a search that
is interrupted and goes on chooses as one that was not.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from compress.compare.cell import CellError
from compress.compare.grid import (
    cell_folder,
    measure_latency,
    open_cells,
    run_cells,
)
from compress.compare.manifest import write_manifest, write_table
from compress.compare.measures import measures_of
from compress.config import (
    Combination,
    Config,
    ConfigError,
    Dimension,
    Search,
    named,
    parse_constraint,
    with_rows,
)
from compress.extras import require
from compress.report import Cell, load_cell

JOURNAL = "search.journal"
_NAME = "sweep"


def search(
    config: Config,
    directory: pathlib.Path,
    *,
    workers: int | None,
    say: Callable[[str], None],
) -> int:
    """Runs the trials of a search that are not told yet, then measures latency.

    Args:
      config: With `sweep.search`.
      directory: Of the sweep, claimed by the caller.
      workers: Processes at a time; by default one per core.
      say: Shows a line of progress.

    Returns:
      How many cells failed.

    Raises:
      ImportError: If the `search` extra is not installed.
    """
    assert config.sweep is not None and config.sweep.search is not None
    state = _Search(config, config.sweep.search, directory, workers, say)
    if "score" in state.asked:
        say(
            "the search looks at `score`, of the test set: the best of many trials "
            "looks better there than it is. `validation_score` is to choose by"
        )
    failed = 0
    while batch := state.next_batch():
        failed += state.run(batch)
    state.finish()
    return failed


class _Search:
    """A study, and the directory its trials run in."""

    def __init__(
        self,
        config: Config,
        setting: Search,
        directory: pathlib.Path,
        workers: int | None,
        say: Callable[[str], None],
    ) -> None:
        self.optuna = require("optuna", user="sweep.search", extra="search")
        self.config, self.setting, self.directory = config, setting, directory
        self.workers, self.say = workers, say
        self.storage = self._storage()
        self.study = self.optuna.create_study(
            storage=self.storage,
            study_name=_NAME,
            directions=list(setting.objectives.values()),
            load_if_exists=True,
        )
        self.runs: dict[int, Combination] = {}
        for trial in self.study.trials:
            if trial.state.is_finished():
                self._keep(trial)

    def _storage(self) -> Any:
        self.optuna.logging.set_verbosity(self.optuna.logging.WARNING)
        journal = self.optuna.storages.journal
        backend = journal.JournalFileBackend(str(self.directory / JOURNAL))
        return self.optuna.storages.JournalStorage(backend)

    def next_batch(self) -> list[Any]:
        """The trials of the first batch that is not told to its end; none at the end.

        Those chosen before an interruption are chosen again, with the same values.
        """
        told = {t.number for t in self.study.trials if t.state.is_finished()}
        numbers = range(self.setting.trials)
        first = next((number for number in numbers if number not in told), None)
        if first is None:
            return []
        end = (first // self.setting.batch + 1) * self.setting.batch
        return [self._trial(number) for number in numbers[first:end]]

    def _trial(self, number: int) -> Any:
        # A sampler for each trial: what it draws is known by the number alone.
        self.study.sampler = self._sampler(number)
        if number < len(self.study.trials):
            study = self.storage.get_study_id_from_name(_NAME)
            find = self.storage.get_trial_id_from_study_id_trial_number
            trial = self.optuna.Trial(self.study, find(study, number))
        else:
            trial = self.study.ask()
        for path, dimension in self.setting.space.items():
            _suggest(trial, path, dimension)
        return trial

    def _sampler(self, number: int) -> Any:
        sequence = np.random.SeedSequence([self.setting.seed, number])
        seed = int(sequence.generate_state(1)[0])
        samplers = self.optuna.samplers
        if self.setting.sampler == "tpe":
            return samplers.TPESampler(seed=seed)
        return samplers.NSGAIISampler(seed=seed, population_size=self.setting.batch)

    def run(self, batch: Sequence[Any]) -> int:
        """Runs some trials and tells what came of them; returns failed cells."""
        kept = [trial for trial in batch if self._keep(trial)]
        failed = 0
        if kept:
            rows = self._rows()
            cells = [cell for trial in kept for cell in self._cells(trial.number)]
            # Two trials of a batch may have the same values.
            todo = open_cells(rows, self.directory, list(dict.fromkeys(cells)))
            total = len(self.manifest)
            failed = run_cells(
                rows, self.directory, todo, total, self.workers, self.say
            )
        for trial in batch:
            self._tell(trial)
        return failed

    def _keep(self, trial: Any) -> bool:
        """Makes a trial a run, unless its values together are no valid config.

        A trial with the values of an earlier one is that run.
        """
        paths = list(self.setting.space)
        values = {path: trial.params[path] for path in paths if path in trial.params}
        same = [run for run in self.runs.values() if run.overrides == values]
        if same:
            self.runs[trial.number] = same[0]
            return True
        run = named(values, paths, ("sweep", "search"))
        run = run._replace(name=f"#{trial.number} {run.name}")
        try:
            with_rows(self.config, [run])
        except ConfigError as error:
            self.say(f"{run.name}: left out: {error}")
            return False
        self.runs[trial.number] = run
        return True

    def _rows(self) -> Config:
        """The comparison of all runs so far, written down."""
        by_name = {self.runs[n].name: self.runs[n] for n in sorted(self.runs)}
        runs = list(by_name.values())
        rows = with_rows(self.config, runs)
        self.manifest = write_manifest(self.config, rows, runs, self.directory)
        return rows

    def _cells(self, number: int) -> list[tuple[str, int]]:
        return [(self.runs[number].name, seed) for seed in self.config.seeds]

    def _tell(self, trial: Any) -> None:
        measured = self._measured(trial.number)
        if measured is None:
            self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
            return
        for text, violation in self._violations(measured).items():
            trial.set_constraint(text, violation)
        values = [measured[name] for name in self.setting.objectives]
        self.study.tell(trial.number, values)

    def _measured(self, number: int) -> dict[str, float] | None:
        """Mean measures of a trial over its seeds; None if one of them failed."""
        if number not in self.runs:
            return None
        folders = [cell_folder(*cell) for cell in self._cells(number)]
        cells = [load_cell(self.directory / folder) for folder in folders]
        finished = [cell for cell in cells if isinstance(cell, Cell)]
        if len(finished) < len(cells):
            return None
        seeds = [measures_of(cell) for cell in finished]
        return {
            name: _mean(name, [seed[name] for seed in seeds]) for name in self.asked
        }

    @property
    def asked(self) -> list[str]:
        """The measures that matter here."""
        constraints = map(parse_constraint, self.setting.constraints)
        return [*self.setting.objectives, *(c.measure for c in constraints)]

    def _violations(self, measured: Mapping[str, float]) -> dict[str, float]:
        """By constraint, by how much it is broken; 0 or less if it is kept."""
        found = {}
        for text in self.setting.constraints:
            constraint = parse_constraint(text)
            found[text] = constraint.violation(measured[constraint.measure])
        return found

    def finish(self) -> None:
        """Measures latency, writes the table and says which trials are best."""
        if not self.runs:
            return
        measure_latency(self._rows(), self.directory, self.say)
        best = [trial.number for trial in self.study.best_trials]
        marks = {self.runs[n].name: self._marks(n, n in best) for n in self.runs}
        write_table(self.manifest, self.directory, marks)
        for number in best:
            measured = self._measured(number) or {}
            shown = ", ".join(f"{name} {x:.6g}" for name, x in measured.items())
            self.say(f"best: {self.runs[number].name}: {shown}")
        if not best:
            self.say("no trial keeps to all constraints")

    def _marks(self, number: int, is_best: bool) -> dict[str, Any]:
        measured = self._measured(number)
        if measured is None:
            return {}
        kept = all(x <= 0 for x in self._violations(measured).values())
        return {"feasible": kept, "best": is_best}


def _suggest(trial: Any, path: str, dimension: Dimension) -> Any:
    """A value for `path`; the one it has, if the trial has one."""
    low, high, step = dimension.low, dimension.high, dimension.step
    if dimension.choices is not None:
        return trial.suggest_categorical(path, dimension.choices)
    if dimension.is_integer:
        return trial.suggest_int(path, low, high, step=step or 1, log=dimension.log)
    return trial.suggest_float(path, low, high, step=step, log=dimension.log)


def _mean(name: str, values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        raise CellError(
            f"sweep.search: {name!r} is not measured for this task. Leave it out of "
            "objectives and constraints."
        )
    return float(np.mean(known))
