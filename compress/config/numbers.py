"""The numbers in which runs of one compiled program may differ.

Whatever else a config says decides which program there is: shapes, steps, branches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from compress.config.identity import WITHOUT_EFFECT
from compress.config.models import Config
from compress.config.paths import KeyPath, path_text

# By section of a stage. Each is read where the train step is built, as a number of one
# run or of several: see `compress.schedule.numbers`.
NUMBERS: Mapping[str, tuple[str, ...]] = {
    "learning_rate": ("peak", "end"),
    "distill": ("temperature", "soft_weight", "hard_weight"),
    "prune": ("sparsity",),
    "quantize": ("weights",),
}
# A bit width goes by its name, as in a config.
Number = float | str


def numbers_of(config: Config) -> dict[str, Number]:
    """By path, the numbers that may be others in the same program."""
    found: dict[str, Number] = {}
    for index, stage in enumerate(config.stages):
        for section, names in NUMBERS.items():
            setting = getattr(stage, section)
            for name in names if setting is not None else ():
                value = getattr(setting, name)
                if value is not None:
                    path: KeyPath = ("stages", index, section, name)
                    found[path_text(path)] = value
    return found


def with_numbers(config: Config, numbers: Mapping[str, Number]) -> Config:
    """The config with numbers from `numbers_of` of one that shares its program."""
    stages = []
    for index, stage in enumerate(config.stages):
        changes: dict[str, Any] = {}
        for section, names in NUMBERS.items():
            at = path_text(("stages", index, section))
            own = {n: numbers[f"{at}.{n}"] for n in names if f"{at}.{n}" in numbers}
            if own:
                changes[section] = getattr(stage, section).model_copy(update=own)
        stages.append(stage.model_copy(update=changes))
    return config.model_copy(update={"stages": tuple(stages)})


def program_hash(config: Config) -> str:
    """SHA-256, in hex, of what a config's compiled train step depends on."""
    same = with_numbers(config, dict.fromkeys(numbers_of(config), 0.0))
    values = same.model_dump(mode="json", exclude={*WITHOUT_EFFECT, "export"})
    # Bit operations are counted in the grid that is exported.
    if any(stage.shrink is not None for stage in config.stages):
        values["export"] = config.export.model_dump(mode="json")
    values["same_distillation"] = _same_distillation(config)
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _same_distillation(config: Config) -> list[int | None]:
    """For each stage the first one that distills like it: they are one transform."""
    settings = [stage.distill for stage in config.stages]
    return [None if s is None else settings.index(s) for s in settings]
