"""Runs of several numbers in one program: each is the run it would have been alone."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import compress
from compress.config import Config, parse_config
from compress.train import CheckpointError, Place, hash_of, train, train_many
from compress.train.metrics import read_metrics
from tests import tiny
from tests.train.test_many import stopped_at

TEACHER = (lambda params, x: x @ params, jnp.asarray(np.eye(5, 3, dtype=np.float32)))
SEEDS = (0, 3)


def config_of(rate: float = 0.01, sparsity: float = 0.5, **distill: float) -> Config:
    stages = [
        {
            "steps": 8,
            "learning_rate": {"schedule": "linear", "peak": rate, "end": 1e-3},
        },
        {
            "steps": 12,
            "learning_rate": {"schedule": "cosine", "peak": rate, "warmup": 2},
            "prune": {"sparsity": sparsity, "every": 2},
            "distill": {"temperature": 2, **distill},
        },
    ]
    settings = {"stages": stages, "checkpoint_every": 7}
    return parse_config({**tiny.CONFIG, **settings})


ROWS = {
    "same": config_of(),
    "sparsity": config_of(sparsity=0.7),
    "others": config_of(rate=0.03, temperature=8.0, soft_weight=0.3, hard_weight=0.7),
}


def together(root: pathlib.Path, rows: Any = ROWS, seeds: Any = SEEDS) -> Any:
    places = {
        (row, seed): Place(config, root / f"{row}{seed}", seed)
        for row, config in rows.items()
        for seed in seeds
    }
    return train_many(places, tiny.task(), root / "group", teacher=TEACHER)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three rows and two seeds, and a row that asks for too much."""
    root = tmp_path_factory.mktemp("numbers")
    return root, together(root, {"bad": config_of(sparsity=0.99), **ROWS})


def test_rows_of_several_numbers_and_seeds_are_compiled_once(ran: Any) -> None:
    _, runs = ran
    found = [runs[row, seed] for row in ROWS for seed in SEEDS]
    assert {run.compilations for run in found} == {1}
    assert len({hash_of(run.state.params) for run in found}) == 6


def test_numbers_that_do_not_suit_the_model_do_not_stop_the_others(ran: Any) -> None:
    root, runs = ran
    for seed in SEEDS:
        assert isinstance(runs["bad", seed], ValueError)
        assert "Give at most" in str(runs["bad", seed])
        assert not (root / f"bad{seed}").exists()


@pytest.mark.parametrize("row", ["sparsity", "others"])
def test_each_row_is_the_run_it_would_be_alone(
    ran: Any, row: str, tmp_path: pathlib.Path
) -> None:
    root, runs = ran
    run, folder = runs[row, 3], root / f"{row}3"
    alone = train(
        ROWS[row], tiny.task(), tmp_path / "alone", seed=3, teacher=TEACHER, quiet=True
    )
    assert jax.tree.structure(run.state) == jax.tree.structure(alone.state)
    for a, b in zip(jax.tree.leaves(run.state), jax.tree.leaves(alone.state)):
        assert a.shape == b.shape and a.dtype == b.dtype
        if a.dtype == np.bool_:
            np.testing.assert_array_equal(a, b)  # masks
        elif jnp.issubdtype(a.dtype, jnp.floating):
            # Products of several runs are summed in another order, over 20 steps.
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    for name in ("run.json", "config.json"):
        ours, theirs = (
            json.loads((at / name).read_text()) for at in (folder, tmp_path / "alone")
        )
        if name == "run.json":
            assert 3 in ours.pop("program_seeds") and theirs.pop("program_seeds") == [3]
        assert ours == theirs


def test_runs_keep_what_their_own_numbers_say_and_tell_it(ran: Any) -> None:
    _, runs = ran
    kept = {row: float(_density(runs[row, 0])) for row in ROWS}
    assert kept["same"] == kept["others"] == 0.5
    assert kept["sparsity"] == pytest.approx(0.3, abs=0.01)
    model, x = runs["same", 0].model, tiny.task().train["x"][:2]
    sites = compress.find_sites(model.forward, model.params, model.model_state, x)
    for row, share in (("others", "50%"), ("sparsity", "70%")):
        plan = runs[row, 3].transform.plan(sites)
        assert f"pruned {share}" in plan["first/kernel"]


def _density(run: Any) -> Any:
    masks = [x for x in jax.tree.leaves(run.state.compression) if x.dtype == bool]
    return sum(x.sum() for x in masks) / sum(x.size for x in masks)


def quantized(weights: str) -> Config:
    stages = [
        {"steps": 6, "learning_rate": 0.01},
        {"steps": 10, "learning_rate": 0.01, "quantize": {"weights": weights}},
    ]
    settings = {"teacher": None, "stages": stages, "checkpoint_every": 16}
    return parse_config({**tiny.CONFIG, **settings})


def test_rows_of_several_bit_widths_are_one_program(tmp_path: pathlib.Path) -> None:
    rows = {name: quantized(name) for name in ("int8", "int4")}
    runs = together(tmp_path, rows, (3,))
    for name, config in rows.items():
        run, folder = runs[name, 3], tmp_path / f"alone-{name}"
        assert run.compilations == 1
        alone = train(config, tiny.task(), folder, seed=3, quiet=True)
        for a, b in zip(jax.tree.leaves(run.state), jax.tree.leaves(alone.state)):
            # As above; an integer that moves by one moves its gradient by a step.
            np.testing.assert_allclose(_data(a), _data(b), rtol=1e-3, atol=1e-4)
        scores = [
            read_metrics(at / "metrics.jsonl")[-1]["eval_score"]
            for at in (tmp_path / f"{name}3", folder)
        ]
        assert scores[0] == pytest.approx(scores[1])
        state = run.state
        boxes = compress.parameters(run.transform, state.params, state.compression)
        integers = np.abs(np.asarray(boxes["first"]["kernel"].qvalue))
        assert integers.max() == {"int8": 127, "int4": 7}[name]


def _data(x: Any) -> Any:
    key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(x) if key else x


def pruned(sparsity: float) -> Config:
    stage = {
        "steps": 20,
        "learning_rate": 0.01,
        "prune": {"sparsity": sparsity, "every": 2},
    }
    settings = {"teacher": None, "stages": [stage], "checkpoint_every": 7}
    return parse_config({**tiny.CONFIG, **settings})


FEW = {"same": pruned(0.5), "sparsity": pruned(0.7)}


@pytest.mark.slow
def test_a_group_of_several_rows_goes_on_to_the_same_bits_and_notices_other_numbers(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = together(tmp_path / "whole", FEW, (0,))
    with stopped_at(14, monkeypatch), pytest.raises(KeyboardInterrupt):
        together(tmp_path / "cut", FEW, (0,))
    other = {**FEW, "sparsity": pruned(0.6)}
    message = r"in sparsity0:\n *there: .*sparsity=0.7\n *here: .*sparsity=0.6\n"
    with pytest.raises(CheckpointError, match=message):
        together(tmp_path / "cut", other, (0,))
    # One row is no longer wanted; those of the checkpoint go on together.
    left = together(tmp_path / "cut", {"sparsity": FEW["sparsity"]}, (0,))
    assert set(left) == {("sparsity", 0)}
    assert hash_of(left["sparsity", 0].state) == hash_of(whole["sparsity", 0].state)
