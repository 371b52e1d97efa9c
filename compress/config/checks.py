"""What values of one config must agree on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from compress.config import comparison_checks, mesh, pruning_checks
from compress.config.comparison import Compare
from compress.config.errors import Problem, describe
from compress.config.models import Config, LearningRate, Stage
from compress.config.names import did_you_mean
from compress.config.paths import KeyPath, path_text
from compress.config.techniques import PostTraining, Quantize


def find_problems(config: Config) -> list[Problem]:
    """Every disagreement in a config whose values are right one by one."""
    return [problem for check in _CHECKS for problem in check(config)]


def _seeds_are_unique(config: Config) -> Iterator[Problem]:
    yield from _repeats(config.seeds, ("seeds",), (), "list each seed once")


def _stage_names_are_unique(config: Config) -> Iterator[Problem]:
    names = [stage.name for stage in config.stages]
    yield from _repeats(names, ("stages",), ("name",), "rename one of the stages")


def _rows_are_unique_and_hold_the_reference(config: Config) -> Iterator[Problem]:
    if config.compare is None:
        return
    names = [row.name for row in config.compare.rows]
    where = ("compare", "rows")
    yield from _repeats(names, where, ("name",), "rename one of the rows")
    yield from _unknown_reference(config.compare, names)


def _unknown_reference(compare: Compare, names: Sequence[str]) -> Iterator[Problem]:
    found = compare.reference
    if found not in names:
        message = f"no row is called {found!r}; {did_you_mean(found, names)}"
        yield Problem(("compare", "reference"), message)


def _rows_are_judged_on_the_same_data(config: Config) -> Iterator[Problem]:
    for index, row in enumerate(config.compare.rows if config.compare else ()):
        for dotted in row.set:
            if dotted.partition(".")[0] in ("task", "data"):
                message = (
                    "rows are judged on the same examples, so a row cannot change "
                    "them; change it in the config, and compare once for each"
                )
                yield Problem(("compare", "rows", index, "set", dotted), message)


def _distillation_has_a_teacher(config: Config) -> Iterator[Problem]:
    for path, stage in _stages(config):
        if stage.distill and config.teacher is None:
            message = (
                "distillation needs a teacher; add `teacher:` with model, steps and "
                "learning_rate, or remove distill"
            )
            yield Problem((*path, "distill"), message)


def _distillation_has_a_loss(config: Config) -> Iterator[Problem]:
    for path, stage in _stages(config):
        distill = stage.distill
        if distill and distill.soft_weight == distill.hard_weight == 0:
            message = "both weights are 0, so nothing is learned; make one positive"
            yield Problem((*path, "distill"), message)


def _ranges_are_decided_once(config: Config) -> Iterator[Problem]:
    if config.compare or config.export.quantize is None:
        return  # In a comparison the rows choose.
    for path, stage in _stages(config):
        if stage.quantize:
            message = (
                f"{path_text(path)}.quantize already decides the ranges in training; "
                "remove this or that"
            )
            yield Problem(("export", "quantize"), message)
            return


def _weights_are_quantized(config: Config) -> Iterator[Problem]:
    for path, grids in _grids(config):
        if grids.weights is not None:
            continue
        if grids.activations is None:
            message = "weights and activations are both null; set weights, or remove it"
            yield Problem(path, message)
        else:
            message = "activations need quantized weights; use weights: int8"
            yield Problem((*path, "activations"), message)


def _delay_ends_within_the_stage(config: Config) -> Iterator[Problem]:
    for path, stage in _stages(config):
        if stage.quantize and stage.quantize.delay >= stage.steps:
            message = (
                f"found {stage.quantize.delay}, but the stage has {stage.steps} steps, "
                "so fake-quant would never start; give a smaller delay or more steps"
            )
            yield Problem((*path, "quantize", "delay"), message)
        elif stage.quantize and _freeze_step(stage) <= stage.quantize.delay:
            message = (
                f"{stage.quantize.freeze:g} of {stage.steps} steps is step "
                f"{_freeze_step(stage)}, not after fake-quant starts at step "
                f"{stage.quantize.delay}; give a larger freeze or a smaller delay"
            )
            yield Problem((*path, "quantize", "freeze"), message)


def _freeze_step(stage: Stage) -> int:
    return round(stage.quantize.freeze * stage.steps) if stage.quantize else 0


def _quantization_stays_the_same(config: Config) -> Iterator[Problem]:
    first: tuple[KeyPath, Quantize] | None = None
    for path, stage in _stages(config):
        if stage.quantize is None:
            continue
        if first is None:
            first = (path, stage.quantize)
        else:
            yield from _differences(path, stage.quantize, first[0][1], first[1])


def _differences(
    path: KeyPath, found: Quantize, index: Any, first: Quantize
) -> Iterator[Problem]:
    for key in Quantize.model_fields:
        here, there = getattr(found, key), getattr(first, key)
        if here != there:
            message = (
                f"found {_shown(here)}, but stages[{index}] has {_shown(there)} and "
                "fake-quant stays on as it is; repeat that, or leave quantize out here"
            )
            yield Problem((*path, "quantize", key), message)


def _learning_rates_fit(config: Config) -> Iterator[Problem]:
    for path, stage in _stages(config):
        yield from _rate(path, stage.learning_rate, stage.steps)
    if config.teacher:
        teacher = config.teacher
        yield from _rate(("teacher",), teacher.learning_rate, teacher.steps)


def _rate(owner: KeyPath, rate: LearningRate, steps: int) -> Iterator[Problem]:
    path = (*owner, "learning_rate")
    if rate.warmup >= steps:
        message = f"found {rate.warmup}, but only {steps} steps follow; give fewer"
        yield Problem((*path, "warmup"), message)
    if rate.schedule == "constant" and rate.end:
        message = "a constant rate has no end; remove it, or use cosine or linear"
        yield Problem((*path, "end"), message)


def _parts_are_equal(config: Config) -> Iterator[Problem]:
    size, parts = config.batch_size, config.accumulate
    if size % parts:
        message = (
            f"{parts} parts do not divide batch_size {size}; give a divisor of it, or "
            "another batch_size"
        )
        yield Problem(("accumulate",), message)


_CHECKS: tuple[Callable[[Config], Iterator[Problem]], ...] = (
    _parts_are_equal,
    _stage_names_are_unique,
    _learning_rates_fit,
    _distillation_has_a_teacher,
    _distillation_has_a_loss,
    _weights_are_quantized,
    _delay_ends_within_the_stage,
    *pruning_checks.CHECKS,
    *comparison_checks.CHECKS,
    _quantization_stays_the_same,
    _ranges_are_decided_once,
    _seeds_are_unique,
    *mesh.CHECKS,
    _rows_are_unique_and_hold_the_reference,
    _rows_are_judged_on_the_same_data,
)


def _stages(config: Config) -> Iterator[tuple[KeyPath, Stage]]:
    for index, stage in enumerate(config.stages):
        yield ("stages", index), stage


def _grids(config: Config) -> Iterator[tuple[KeyPath, Quantize | PostTraining]]:
    for path, stage in _stages(config):
        if stage.quantize:
            yield (*path, "quantize"), stage.quantize
    if config.export.quantize:
        yield ("export", "quantize"), config.export.quantize


def _repeats(
    values: Sequence[Any], before: KeyPath, after: KeyPath, remedy: str
) -> Iterator[Problem]:
    """A problem at each value that an earlier one equals."""
    seen: Counter[Any] = Counter()
    for index, value in enumerate(values):
        if seen[value]:
            message = f"{describe(value)} is there twice; {remedy}"
            yield Problem((*before, index, *after), message)
        seen[value] += 1


def _shown(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else describe(value)
