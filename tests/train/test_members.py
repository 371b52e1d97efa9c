"""What a group's directory remembers of its runs."""

import pathlib
from typing import Any

import pytest

from compress.config import parse_config
from compress.train import CheckpointError, Place
from compress.train.members import member_of, members_of
from tests import tiny


def config_of(rate: float, batch_size: int = 16) -> Any:
    stages = [{"steps": 4, "learning_rate": rate}]
    changes = {"teacher": None, "stages": stages, "batch_size": batch_size}
    return parse_config({**tiny.CONFIG, **changes})


def remembered(
    group: pathlib.Path, *rates: float, names: str = "ab", **more: Any
) -> Any:
    """Members of a group, with these learning rates, in folders of these names."""
    configs = [config_of(rate, **more) for rate in rates]
    places = [Place(c, group.parent / name, 5) for c, name in zip(configs, names)]
    wanted = [member_of(place) for place in places]
    return members_of(group, configs[0], tiny.task(), wanted)


@pytest.fixture
def group(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "group"
    (path / "checkpoints").mkdir(parents=True)
    remembered(path, 0.1, 0.2)
    return path


def test_those_that_were_begun_go_on_together(group: pathlib.Path) -> None:
    known = remembered(group, 0.1)
    assert [run.folder for run in known] == ["a", "b"]
    assert [next(iter(run.numbers.values())) for run in known] == [0.1, 0.2]
    assert (group / "checkpoints").exists()


def test_other_runs_begin_anew(group: pathlib.Path) -> None:
    assert [run.folder for run in remembered(group, 0.1, 0.2, names="ac")] == ["a", "c"]
    assert not (group / "checkpoints").exists()


def test_other_numbers_are_refused_and_said(group: pathlib.Path) -> None:
    message = (
        r"in b:\n *there: stages\[0\].learning_rate.peak=0.2\n"
        r" *here: +stages\[0\].learning_rate.peak=0.3\nGo back"
    )
    with pytest.raises(CheckpointError, match=message):
        remembered(group, 0.1, 0.3)
    assert (group / "checkpoints").exists()


def test_another_program_is_refused(group: pathlib.Path) -> None:
    with pytest.raises(CheckpointError, match="another config or data"):
        remembered(group, 0.1, 0.2, batch_size=8)
