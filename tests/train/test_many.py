"""Seeds trained in one program: each is the run it would have been alone."""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import compress.train.many as many
from compress.config import parse_config
from compress.train import (
    CheckpointError,
    Place,
    RunError,
    finished,
    hash_of,
    teacher_of,
    train,
    train_many,
)
from compress.train.directory import claimed
from compress.train.metrics import read_metrics
from tests import tiny

CONFIG = parse_config(tiny.CONFIG)
SHORT = parse_config(
    {
        **tiny.CONFIG,
        "teacher": None,
        "stages": [
            {"name": "a", "steps": 10, "learning_rate": 0.01},
            {
                "name": "b",
                "steps": 10,
                "learning_rate": 0.01,
                "prune": {"sparsity": 0.5, "every": 2},
            },
        ],
        "checkpoint_every": 7,
    }
)
SEEDS = (0, 3, 5)


def places(root: pathlib.Path, config: Any = SHORT, seeds: Any = SEEDS) -> Any:
    return {seed: Place(config, root / f"seed{seed}", seed) for seed in seeds}


def short(root: pathlib.Path, task: Any = None, **settings: Any) -> Any:
    return train_many(places(root, **settings), task or tiny.task(), root / "group")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three seeds of a schedule with every technique, and one of them alone."""
    root, task = tmp_path_factory.mktemp("many"), tiny.task()
    teacher = teacher_of(CONFIG, task, root / "teachers", quiet=True)
    runs = train_many(places(root, CONFIG), task, root / "group", teacher=teacher)
    alone = train(CONFIG, task, root / "alone", seed=3, teacher=teacher, quiet=True)
    return root, runs, alone, teacher


def test_each_seed_is_the_run_it_would_be_alone(ran: Any) -> None:
    _, runs, alone, _ = ran
    ours, theirs = jax.tree.leaves(runs[3].state), jax.tree.leaves(alone.state)
    assert jax.tree.structure(runs[3].state) == jax.tree.structure(alone.state)
    for a, b in zip(ours, theirs):
        assert a.shape == b.shape and a.dtype == b.dtype
        if a.dtype == np.bool_:
            np.testing.assert_array_equal(a, b)  # masks
        elif jnp.issubdtype(a.dtype, jnp.floating):
            # Products of several seeds are summed in another order, over 50 steps.
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert hash_of(runs[0].state.params) != hash_of(runs[5].state.params)
    assert {run.compilations for run in runs.values()} == {1}


def test_each_folder_is_that_of_a_run_of_its_own(ran: Any) -> None:
    root, runs, _, teacher = ran
    assert not (root / "group").exists()
    own, alone = root / "seed3", root / "alone"
    assert {p.name for p in own.iterdir()} == {p.name for p in alone.iterdir()}
    for name in ("run.json", "config.json"):
        ours, theirs = (json.loads((d / name).read_text()) for d in (own, alone))
        if name == "run.json":
            assert ours.pop("program_seeds") == list(SEEDS)
            assert theirs.pop("program_seeds") == [3]
        assert ours == theirs
    lines, others = (read_metrics(d / "metrics.jsonl") for d in (own, alone))
    assert [line.keys() for line in lines] == [line.keys() for line in others]
    for line, other in zip(lines, others):
        assert (line["step"], line["stage"]) == (other["step"], other["stage"])
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert line["sparsity"] == other["sparsity"]
    again = finished(CONFIG, tiny.task(), own, seed=3, teacher=teacher)
    assert again is not None and hash_of(again.state) == hash_of(runs[3].state)


def test_what_is_finished_is_restored_and_not_trained_again(
    ran: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, runs, _, teacher = ran
    monkeypatch.setattr(many, "_Group", None)
    again = train_many(
        places(root, CONFIG), tiny.task(), root / "group", teacher=teacher
    )
    for seed in SEEDS:
        assert hash_of(again[seed].state) == hash_of(runs[seed].state)
    # One function for all, so that what uses it is compiled once.
    assert len({id(run.model.forward) for run in again.values()}) == 1
    assert len({id(run.transform.init) for run in again.values()}) == 1


@contextlib.contextmanager
def stopped_at(step: int, monkeypatch: Any) -> Iterator[None]:
    """The process of a group is gone when it reaches a step."""
    record = many._Group._record

    def stop(self: Any, now: int, *rest: Any) -> None:
        record(self, now, *rest)
        if now >= step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(many._Group, "_record", stop)
        yield


def killed(root: pathlib.Path, step: int, monkeypatch: Any, **settings: Any) -> None:
    """A group whose process is gone when it reaches a step."""
    with stopped_at(step, monkeypatch), pytest.raises(KeyboardInterrupt):
        short(root, **settings)


def program_seeds(directory: pathlib.Path) -> list[int]:
    return json.loads((directory / "run.json").read_text())["program_seeds"]


def test_a_group_that_was_stopped_goes_on_to_the_same_bits(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = short(tmp_path / "whole")
    killed(tmp_path / "cut", 14, monkeypatch)
    # Fewer seeds are wanted now; those of the checkpoint go on together.
    left = short(tmp_path / "cut", seeds=(0, 5))
    assert program_seeds(tmp_path / "cut/seed5") == list(SEEDS)
    assert set(left) == {0, 5}
    for seed in left:
        assert hash_of(left[seed].state) == hash_of(whole[seed].state)
        lines = read_metrics(tmp_path / f"cut/seed{seed}/metrics.jsonl")
        assert [line["step"] for line in lines] == [7, 14, 20]
    assert not (tmp_path / "cut/group").exists()


def test_a_group_of_another_config_is_refused_and_left_alone(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(tmp_path, 7, monkeypatch)
    other = SHORT.model_copy(update={"batch_size": 8})
    with pytest.raises(CheckpointError, match="another config or data"):
        short(tmp_path, config=other)
    assert (tmp_path / "group/checkpoints").exists()


@pytest.mark.slow
def test_a_group_of_other_seeds_starts_anew(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(tmp_path, 7, monkeypatch, seeds=(0, 3))
    runs = short(tmp_path, seeds=(3, 5))
    assert set(runs) == {3, 5}
    assert program_seeds(tmp_path / "seed3") == [3, 5]
    lines = read_metrics(tmp_path / "seed3/metrics.jsonl")
    assert [line["step"] for line in lines] == [7, 14, 20]


def test_a_seed_whose_loss_is_not_finite_does_not_stop_the_others(
    tmp_path: pathlib.Path,
) -> None:
    task = tiny.task()
    bad = jax.random.key_data(jax.random.split(jax.random.key(3))[0])

    def build(key: Any, **settings: Any) -> Any:
        model = task.build(key, **settings)
        scale = jnp.where((jax.random.key_data(key) == bad).all(), 1e30, 1.0)
        return model._replace(params=jax.tree.map(lambda p: p * scale, model.params))

    runs = short(tmp_path, task._replace(build=build))
    assert isinstance(runs[3], RunError)
    assert "seed3: the loss is not finite at step 1, in stage 'a'" in str(runs[3])
    for seed in (0, 5):
        assert all(
            np.isfinite(x).all() for x in jax.tree.leaves(runs[seed].state.params)
        )
        assert finished(SHORT, task, tmp_path / f"seed{seed}", seed=seed) is not None
    assert read_metrics(tmp_path / "seed3/metrics.jsonl") == []
    assert not (tmp_path / "seed3/checkpoints").exists()


def test_a_folder_in_use_stops_the_group(tmp_path: pathlib.Path) -> None:
    with (
        claimed(tmp_path / "seed3"),
        pytest.raises(RunError, match="seed3: is in use by another process"),
    ):
        short(tmp_path)
