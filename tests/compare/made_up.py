"""Sweeps of made-up cells: results as a run would have written them."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

from compress.compare import sweep
from compress.compare.groups import cell_folder, write_error
from compress.config import Config, config_hash, parse_config
from compress.train import data_hash
from tests import tiny
from tests.compare import configs
from tests.report.conftest import result

SPARSITY = "stages[1].prune.sparsity"


def swept(setting: Any, seeds: Any = (0, 1), **changes: Any) -> Config:
    return parse_config(
        {**configs.SETTINGS, "sweep": setting, "seeds": list(seeds), **changes}
    )


def run(config: Config, directory: pathlib.Path, **settings: Any) -> tuple[int, list]:
    lines: list[str] = []
    return sweep(config, directory, say=lines.append, **settings), lines


class MadeUp:
    """Cells without training; a sparsity in `failing` fails."""

    def __init__(self) -> None:
        self.done: list[tuple[float, int]] = []
        self.failing: set[float] = set()

    def group(
        self, rows: Any, cells: Any, root: pathlib.Path
    ) -> Iterator[tuple[str, int, Any]]:
        """Stands for `run_group`."""
        for row, seed in cells:
            folder = root / cell_folder(row, seed)
            try:
                yield row, seed, self.cell(rows[row], folder, seed=seed)
            except ValueError as error:
                write_error(folder, row, seed, error)
                yield row, seed, error

    def cell(
        self, config: Config, directory: pathlib.Path, *, seed: int
    ) -> dict[str, Any]:
        assert config.stages[1].prune is not None
        sparsity = config.stages[1].prune.sparsity
        assert sparsity is not None
        self.done.append((sparsity, seed))
        if sparsity in self.failing:
            raise ValueError("made to fail")
        made = result(str(config.name), seed, (0.9 - sparsity**2, sparsity, 8, []))
        made["config_hash"] = config_hash(config)
        made["data_hash"] = data_hash(tiny.task())
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "result.json").write_text(json.dumps(made))
        return made
