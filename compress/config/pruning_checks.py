"""What the settings of pruning must agree on, with one another and over stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from compress.config.errors import Problem, describe
from compress.config.models import Config, Stage
from compress.config.paths import KeyPath, path_text
from compress.config.pruning import FROM_INPUTS, MONOTONE, Block, Prune, is_uniform, n_m

# What may differ between the stages that prune.
_OVER_TIME = {"sparsity", "schedule", "until"}


def _sparsity_is_said(config: Config) -> Iterator[Problem]:
    for path, prune in _pruning(config):
        if n_m(prune.pattern):
            yield from _n_m_problems(path, prune)
        elif not isinstance(prune.scope, Mapping) and prune.sparsity is None:
            field = Prune.model_fields["sparsity"].description or ""
            message = f"this key is missing; add it. {field.partition('. ')[0]}."
            yield Problem((*path, "sparsity"), message)


def _n_m_problems(path: KeyPath, prune: Prune) -> Iterator[Problem]:
    kept, of = n_m(prune.pattern) or (0, 0)
    if kept >= of:
        message = (
            f"found {prune.pattern!r}, which keeps {kept} of every {of} and prunes "
            f"nothing; N must be below M, as in '{of}:{2 * kept}'"
        )
        yield Problem((*path, "pattern"), message)
    elif prune.sparsity not in (None, 1 - kept / of):
        message = (
            f"found {prune.sparsity:g}, but pattern {prune.pattern!r} makes "
            f"{1 - kept / of:g}; remove this, or choose another pattern"
        )
        yield Problem((*path, "sparsity"), message)


def _zeros_can_be_shared_out(config: Config) -> Iterator[Problem]:
    for path, prune in _pruning(config):
        if is_uniform(prune) and prune.scope not in (None, "uniform"):
            what = f"score {prune.score}"
            if n_m(prune.pattern):
                what = f"pattern {prune.pattern!r}"
            message = (
                f"{what} makes the same sparsity everywhere, so zeros are not shared "
                "out otherwise; remove scope"
            )
            yield Problem((*path, "scope"), message)


def target_sparsity(prune: Prune) -> float | None:
    """The fraction of zeros that a setting reaches; None if sites differ."""
    kept, of = n_m(prune.pattern) or (0, 0)
    if kept < of:
        return 1 - kept / of
    return prune.sparsity


def _sparsity_never_falls(config: Config) -> Iterator[Problem]:
    highest, holder = 0.0, 0
    for path, prune in _pruning(config):
        found = target_sparsity(prune)
        if found is None or prune.schedule not in MONOTONE:
            continue
        if found < highest:
            message = (
                f"found {found:g}, below the {highest:g} of stages[{holder}]; pruned "
                f"weights do not come back, so give {highest:g} or more, or no prune"
            )
            yield Problem((*path, "sparsity"), message)
        else:
            highest, holder = found, int(path[1])


def _pruning_has_one_setting(config: Config) -> Iterator[Problem]:
    """It is one transform; only its sparsity varies with time."""
    pruning = list(_pruning(config))
    for path, prune in pruning[1:]:
        first_path, first = pruning[0]
        for key in Prune.model_fields:
            here, there = getattr(prune, key), getattr(first, key)
            if key not in _OVER_TIME and here != there:
                message = (
                    f"found {_shown(here)}, but {path_text(first_path)} has "
                    f"{_shown(there)}; it must be the same in all stages"
                )
                yield Problem((*path, key), message)


def _only_ramps_go_on_in_a_later_stage(config: Config) -> Iterator[Problem]:
    pruning = list(_pruning(config))
    for path, prune in pruning[1:]:
        once = prune.score in FROM_INPUTS
        others = {setting.schedule for _, setting in pruning} - set(MONOTONE)
        if once or others:
            what = f"score {prune.score}" if once else f"schedule {min(others)}"
            message = (
                f"{path_text(pruning[0][0])} prunes already, and {what} acts in one "
                "stage; remove this: the masks hold in every later stage"
            )
            yield Problem(path, message)


def _scores_from_inputs_prune_once(config: Config) -> Iterator[Problem]:
    for path, prune in _pruning(config):
        if prune.score in FROM_INPUTS and prune.schedule != "one_shot":
            message = (
                f"found {prune.schedule!r}, but score {prune.score} looks at inputs "
                "between two steps and prunes once; write schedule: one_shot"
            )
            yield Problem((*path, "schedule"), message)
        if prune.score in FROM_INPUTS and not _is_plain(prune):
            message = (
                f"found {_shown(prune.pattern)}, but score {prune.score} knows single "
                "weights and N:M only; write unstructured or '2:4'"
            )
            yield Problem((*path, "pattern"), message)
        if prune.weights is not None and prune.score != "second_order":
            message = (
                f"found {prune.weights!r}, but only score second_order rounds while it "
                "prunes; remove it, or use quantize or export.quantize"
            )
            yield Problem((*path, "weights"), message)


def _scores_from_inputs_come_before_quantization(config: Config) -> Iterator[Problem]:
    """They look at the float network, which is not what is served by then."""
    quantized: KeyPath | None = None
    for path, stage in _stages(config):
        late = stage.prune is not None and stage.prune.score in FROM_INPUTS
        if late and quantized is not None and not config.compare:
            message = (
                f"score {stage.prune.score} looks at the float network, but "
                f"{path_text(quantized)}.quantize is on by then; prune in an earlier "
                "stage, or use score: magnitude"
            )
            yield Problem((*path, "prune", "score"), message)
        quantized = path if stage.quantize and quantized is None else quantized


def _is_plain(prune: Prune) -> bool:
    return prune.pattern == "unstructured" or n_m(prune.pattern) is not None


def _budgets_count_one_thing(config: Config) -> Iterator[Problem]:
    for path, stage in _stages(config):
        given = stage.shrink.budget.given if stage.shrink else {"": 0.0}
        if len(given) != 1:
            found = ", ".join(given) or "none"
            message = f"found {found}; give one of parameters, macs, bops, latency"
            yield Problem((*path, "shrink", "budget"), message)


def _units_are_removed_alone(config: Config) -> Iterator[Problem]:
    """What is quantized or masked sees the network it will be shipped in."""
    if config.compare:
        return  # In a comparison the rows choose.
    quantized: KeyPath | None = None
    for path, stage in _stages(config):
        quantized = path if stage.quantize and quantized is None else quantized
        if stage.shrink and quantized is not None:
            message = (
                f"comes after {path_text(quantized)}.quantize, whose ranges are those "
                "of the whole network; the order is prune or shrink, then distill, "
                "then quantize: move quantize to a later stage"
            )
            yield Problem((*path, "shrink"), message)
        if stage.shrink and stage.prune:
            message = (
                "this stage prunes single weights too, and how many of their zeros are "
                "left once units are removed is not known; prune in a later stage"
            )
            yield Problem((*path, "shrink"), message)


CHECKS: tuple[Callable[[Config], Iterator[Problem]], ...] = (
    _sparsity_is_said,
    _zeros_can_be_shared_out,
    _sparsity_never_falls,
    _pruning_has_one_setting,
    _only_ramps_go_on_in_a_later_stage,
    _scores_from_inputs_prune_once,
    _scores_from_inputs_come_before_quantization,
    _budgets_count_one_thing,
    _units_are_removed_alone,
)


def _stages(config: Config) -> Iterator[tuple[KeyPath, Stage]]:
    for index, stage in enumerate(config.stages):
        yield ("stages", index), stage


def _pruning(config: Config) -> Iterator[tuple[KeyPath, Prune]]:
    for path, stage in _stages(config):
        if stage.prune:
            yield (*path, "prune"), stage.prune


def _shown(value: object) -> str:
    if isinstance(value, Block):
        return f"{{block: {list(value.block)}}}"
    return str(list(value)) if isinstance(value, tuple) else describe(value)
