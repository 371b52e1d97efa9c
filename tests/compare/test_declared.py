"""What was declared before the runs stays known, whatever is added later."""

import json
import pathlib

from compress.compare.declared import RECORD, declare, late_seeds
from compress.config import Config, parse_config
from tests.compare import configs


def compared(*contrasts: str, seeds: tuple[int, ...] = (0, 1)) -> Config:
    rows = [{"name": "A"}, {"name": "B"}]
    compare = {"rows": rows, "reference": "A", "contrasts": list(contrasts)}
    return parse_config({**configs.SETTINGS, "seeds": list(seeds), "compare": compare})


def finish(directory: pathlib.Path, *cells: str) -> None:
    for cell in cells:
        (directory / cell).mkdir()
        (directory / cell / "result.json").write_text("{}")


def test_a_claim_added_to_finished_runs_is_known_as_such(tmp_path: pathlib.Path):
    first = declare(compared("A > B"), tmp_path)
    assert first == {"contrasts": [0], "seeds": [0, 0]}
    finish(tmp_path, "A-seed0", "B-seed0", "A-seed1")
    again = declare(compared("B > A", "A > B"), tmp_path)
    assert again["contrasts"] == [3, 0]
    finish(tmp_path, "B-seed1")
    assert declare(compared("B > A"), tmp_path)["contrasts"] == [3]
    record = json.loads((tmp_path / RECORD).read_text())
    assert [e["declared"]["row"] for e in record["contrasts"]] == ["A", "B"]


def test_the_same_rows_with_a_margin_are_another_claim(tmp_path: pathlib.Path):
    declare(compared("A > B"), tmp_path)
    finish(tmp_path, "A-seed0")
    assert declare(compared("A - B"), tmp_path)["contrasts"] == [1]


def test_seeds_added_to_finished_runs_are_noted(tmp_path: pathlib.Path):
    declare(compared(), tmp_path)
    finish(tmp_path, "A-seed0", "B-seed0", "A-seed1", "B-seed1")
    more = compared(seeds=(0, 1, 2))
    counts = declare(more, tmp_path)["seeds"]
    assert counts == [0, 0, 4]
    (note,) = late_seeds(more, counts)
    assert "Seeds 2 were added after 4 runs had finished" in note
    assert late_seeds(more, [0, 0, 0]) == []
