"""What README shows works as it stands."""

import pathlib
import re

import jax
import pytest
import yaml

from compress.config import parse_config, row_config

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()


def block(language):
    return re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)[1]


def test_the_library_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
        exec(compile(block("python"), "README.md", "exec"), names)
    shown = capsys.readouterr().out
    assert float(shown.splitlines()[-1]) > 0.9
    state, transform = names["state"], names["transform"]
    # 25,856 weights, of which round(0.8 * 25,856) = 20,685 are zero.
    sparsity = names["compress"].metrics(transform, state)["sparsity"]
    assert float(sparsity) == pytest.approx(20_685 / 25_856)
    assert names["train_step"]._cache_size() <= 2  # a new state is not yet on a device


def test_the_config_example_is_valid():
    config = parse_config(yaml.safe_load(block("yaml")))
    assert row_config(config, config.compare.rows[1]).stages[2].quantize is not None


def test_the_examples_are_as_short_as_promised():
    code = [line for line in block("python").splitlines() if line.strip()]
    assert len(code) <= 25
    assert len(block("yaml").splitlines()) <= 25
