"""The language models, with texts of our own in place of the real ones."""

import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from compress.config import load_config, row_config
from compress.task import load_task
from compress.train import check_schedule
from experiments.tasks import language, shakespeare, wikitext
from tests.experiments.texts import write_texts

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def test_a_loss_is_the_mean_over_the_positions_of_an_example() -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(3, 5, 7)).astype(np.float32)
    batch = {"y": draw.integers(0, 7, (3, 5))}
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    given = np.take_along_axis(chances, batch["y"][..., None], -1)[..., 0]
    found = language.losses(jax.numpy.asarray(logits), batch)
    np.testing.assert_allclose(found, -np.log(given).mean(1), rtol=1e-5)
    mean = language.cross_entropy(jax.numpy.asarray(logits), batch)
    assert float(mean) == pytest.approx(-np.log(given).mean(), rel=1e-5)
    expected = (logits.argmax(-1) == batch["y"]).mean(1)
    np.testing.assert_allclose(
        language.hits(jax.numpy.asarray(logits), batch), expected
    )


def test_what_is_judged_is_neither_trained_on_nor_watched() -> None:
    known, unknown = bytes(range(128)) * 20, bytes(range(128, 256)) * 20
    task = wikitext.task_of(known, unknown, tests=5)
    assert task.test["x"].min() >= 128 > task.train["x"].max()
    assert len(task.test["x"]) == 5
    text = "a" * 9000 + "b" * 1000
    letters = shakespeare.task_of(text)
    assert (letters.test["x"] == 1).all()
    assert letters.train["y"].max() == letters.validation["y"].max() == 0
    assert letters.judge.name == "loss" and not letters.judge.higher_is_better


def test_some_examples_are_spread_over_all() -> None:
    examples = {"x": np.arange(100)[:, None]}
    assert language.some(examples, 4)["x"].ravel().tolist() == [0, 33, 66, 99]
    assert len(language.some(examples, 1000)["x"]) == 100


@pytest.fixture
def texts(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A data folder with texts that no one has to download."""
    folder = tmp_path / "data"
    write_texts(folder)
    monkeypatch.setenv("JAX_COMPRESS_DATA", str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shakespeare", "wikitext"])
def test_every_row_of_the_whole_config_can_be_trained(name: str, texts: Any) -> None:
    config = load_config(CONFIGS / f"{name}.yaml", ["model.width=16"])
    task = load_task(config.task, config.data)
    for row in config.compare.rows:
        check_schedule(row_config(config, row), task)
