"""What a config says of pruning, as calls of `compress.prune`."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from compress import prune, quantize
from compress.adapters import Model
from compress.annotations import PyTree
from compress.config import Block, Config, PostTraining, Prune, Quantize, Shrink
from compress.config.pruning import MONOTONE, n_m
from compress.quantize.fake_quant import WEIGHTS
from compress.sites import Groups, Sites, find_sites, matching_sites
from compress.transform import Ramp, Transform, ramp

# A stage that prunes: its first step, its steps, its setting.
PruningStage = tuple[int, int, Prune]
_POWERS = {"cubic": 3.0, "linear": 1.0}


def connections(first: Prune, when: prune.When) -> Transform:
    """One transform for all stages that prune single connections.

    Args:
      first: The setting of the first of them; others differ in their sparsity.
      when: See `when`.
    """
    return prune.connections(
        when,
        score=first.score,
        pattern=_pattern(first),
        scope=first.scope,
        sites=first.sites,
        exclude=first.exclude,
        min_kept=first.min_kept,
    )


def _pattern(setting: Prune) -> Any:
    pattern = setting.pattern
    return pattern.model_dump() if isinstance(pattern, Block) else pattern


def _sparsity(setting: Prune) -> float:
    pair = n_m(setting.pattern)
    return 1 - pair[0] / pair[1] if pair else setting.sparsity or 0.0


def when(stages: Sequence[PruningStage]) -> prune.When:
    """The time course of the masks over all stages that prune."""
    start, length, setting = stages[0]
    steps, every = (start, _end(start, length, setting.until)), setting.every
    target = _sparsity(setting)
    if setting.schedule in MONOTONE:
        return prune.gradual(_ramps(stages), every=every)
    if setting.schedule == "periodic":
        return prune.periodic(target, steps=steps, every=every)
    if setting.schedule == "cyclic":
        return prune.cyclic(target, steps=steps, sparse=every, dense=every)
    if setting.schedule == "straight_through":
        return prune.straight_through(target, steps=steps, every=every)
    exchange = {"set": prune.sparse_evolution, "rigl": prune.rigl}[setting.schedule]
    return exchange(target, steps=steps, every=every, drop=setting.regrow)


def _ramps(stages: Sequence[PruningStage]) -> list[Ramp]:
    ramps: list[Ramp] = []
    for start, length, setting in stages:
        reached = ramps[-1].final if ramps else 0.0
        ramps.append(_ramp(setting, reached, _sparsity(setting), start, length))
    return ramps


def _ramp(
    setting: Prune | Shrink, initial: float, final: float, start: int, length: int
) -> Ramp:
    if setting.schedule == "one_shot":
        return ramp(initial, final, steps=(start, start))
    steps = (start, _end(start, length, setting.until))
    return ramp(initial, final, steps=steps, power=_POWERS[setting.schedule])


def _end(start: int, length: int, until: float) -> int:
    return start + max(round(until * length), 1)


def units(
    setting: Shrink, start: int, length: int, groups: Groups, bops: Any
) -> list[Transform]:
    """What masks units in a stage.

    None for a latency, which is measured once, where the stage ends.
    """
    if "latency" in setting.budget.given:
        return []
    return [
        prune.structured(
            groups,
            **unit_settings(setting, bops),
            score=setting.score,
            when=_ramp(setting, 0.0, 1.0, start, length),
            every=setting.every,
        )
    ]


def unit_settings(setting: Shrink, bops: Any) -> dict[str, Any]:
    """What all functions that choose units take."""
    return {
        "budget": setting.budget.given,
        "normalize": setting.normalize,
        "round_to": setting.round_to,
        "min_units": setting.min_units,
        "names": setting.groups,
        "exclude": setting.exclude,
        "drop_layers": setting.drop_layers,
        "bops": bops,
    }


def bit_operations(config: Config, groups: Groups, sites: Sites) -> Any:
    """What counts bit operations, at the widths that the config ends with."""
    grids: list[Quantize | PostTraining] = [
        stage.quantize for stage in config.stages if stage.quantize is not None
    ]
    grids += [config.export.quantize] if config.export.quantize is not None else []
    bits: dict[str, tuple[int, int]] = {}
    for grid in grids[:1]:
        weights = WEIGHTS[str(grid.weights)]
        activations = 32 if grid.activations is None else 8
        user = "quantize.fake_quant"
        for site in matching_sites(sites, grid.sites, grid.exclude, user=user):
            bits[site.name] = (weights, activations)
    return prune.bops_of(groups, sites, bits)


def foreseen_units(
    setting: Shrink, groups: Groups, bops: Any
) -> Mapping[str, np.ndarray]:
    """Some choice of units that meets the budget, as the trained one will.

    All units are worth the same here, and a latency is taken to follow the
    multiply-accumulates.

    Raises:
      ValueError: If a pattern matches nothing, or the budget cannot be met.
    """
    ones = {
        g.name: np.ones((g.size,) if g.layers is None else (g.layers, g.size))
        for g in groups.free
    }
    settings = unit_settings(setting, bops)
    if "latency" in setting.budget.given:
        whole = groups.macs({})
        settings["measure"] = lambda keep: groups.macs(prune.sizes_of(keep)) / whole
    return prune.choose_units(groups, ones, **settings).keep


def prune_from_inputs(
    setting: Prune, model: Model, batches: Sequence[tuple[Any, ...]]
) -> Any:
    """Prunes a model with a score that looks at the inputs of its sites."""
    grid = None
    if setting.weights is not None:
        grid = quantize.fake_quant(
            weights=setting.weights,
            activations=None,
            sites=setting.sites,
            exclude=setting.exclude,
        )
    return prune.one_shot(
        model.predictor(),
        model.params,
        batches,
        score=setting.score,
        sparsity=setting.sparsity,
        pattern=str(setting.pattern),
        quantize=grid,
        sites=setting.sites,
        exclude=setting.exclude,
    )


def paths_to_prune(setting: Prune, model: Model, inputs: Sequence[Any]) -> list[str]:
    """The parameters that `prune_from_inputs` will prune.

    Raises:
      ValueError: If a pattern matches nothing, or does not fit an axis.
    """
    like = setting.model_copy(update={"score": "magnitude", "scope": "uniform"})
    transform = connections(like, when([(1, 1, like)]))

    def masks(params: PyTree) -> Any:
        sites = find_sites(model.predictor(), params, *inputs)
        return transform.init(params, sites).masks

    return sorted(jax.eval_shape(masks, model.params))
