"""The language model and the study on it, with a text of our own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import compress
from experiments import pruning_lm
from experiments.pruning_lm_table import section
from experiments.tasks import shakespeare
from experiments.tasks.language import LENGTH

WORDS = ["to", "be", "or", "not", "that", "is", "the", "question", "\n"]
TEXT = " ".join(np.random.default_rng(0).choice(WORDS, 4000))
TASK = shakespeare.task_of(TEXT)


def test_an_example_is_followed_by_its_next_character() -> None:
    kinds = sorted(set(TEXT))
    for part in (TASK.train, TASK.test):
        np.testing.assert_array_equal(part["x"][:, 1:], part["y"][:, :-1])
    cut = len(TEXT) * 9 // 10
    first = "".join(kinds[i] for i in TASK.test["x"][0])
    assert first == TEXT[cut : cut + LENGTH]
    last = "".join(kinds[i] for i in TASK.train["y"][-1])
    assert TEXT[:cut].rfind(last) > 0  # nothing of the test is trained on


def test_no_position_sees_a_later_character() -> None:
    model = TASK.build(jax.random.key(0), width=8, layers=2, heads=2)
    predict = jax.jit(model.predictor())
    ids = jnp.asarray(TASK.test["x"][:2])
    changed = ids.at[:, 40:].set(0)
    before, after = predict(model.params, ids), predict(model.params, changed)
    np.testing.assert_allclose(before[:, :40], after[:, :40], atol=1e-5)
    assert (before[:, 40:] != after[:, 40:]).any()
    # Layers are stacked, and each of their matrices is a site.
    sites = compress.find_sites(model.predictor(), model.params, ids)
    found = {s.path: s.stack for s in sites.weighted}
    layers = [f"blocks/{n}/kernel" for n in ("qkv", "out", "up", "down")]
    assert found == {**dict.fromkeys(layers, (2,)), "head/kernel": ()}


@pytest.fixture(scope="module")
def result(tmp_path_factory: Any) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("models")
    first = pruning_lm.run(pruning_lm.FAST, TASK, [0], folder)
    kept = pruning_lm.trained(pruning_lm.FAST, TASK, 0, folder)
    outputs = kept.predictor()(kept.params, TASK.test["x"][:64])
    batch = {name: x[:64] for name, x in TASK.test.items()}
    # The model that was kept is the one that was measured.
    measured = first["losses"]["0"]["dense"]["float32"]
    assert float(TASK.loss(outputs, batch)) == pytest.approx(measured, rel=1e-5)
    return first


@pytest.mark.slow
def test_the_study_trains_and_prunes(result: Any) -> None:
    losses = result["losses"]["0"]
    assert losses["dense"]["float32"] < np.log(len(set(TEXT)))  # it learned something
    names = {"magnitude", "magnitude, then int4", "second-order with int4"}
    assert set(losses["50 %"]) == names
    found = [x for row in losses.values() for x in row.values()]
    assert all(0.0 < x < 10.0 for x in found)
    assert len(set(found)) == len(found) == 6


@pytest.mark.slow
def test_the_table_tells_means_spreads_and_who_wins(result: Any) -> None:
    one = {"magnitude": 2.0, "second-order": 1.9}
    other = {"magnitude": 2.4, "second-order": 2.1}
    losses = [{"dense": {"float32": 1.7}, "50 %": row} for row in (one, other)]
    text = section({**result, "losses": {"0": losses[0], "1": losses[1]}})
    assert "| float32 | 1.700 ± 0.000 |" in text
    assert "| second-order | 2.000 ± 0.141 |" in text  # 0.2 / sqrt(2)
    assert "second-order beats magnitude in 2 of 2 seeds (by +0.200)" in text
    assert "XLA does not get faster" in text


@pytest.mark.slow
def test_seeds_of_the_same_study_are_kept(
    result: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "result.json"
    monkeypatch.setattr(pruning_lm, "RESULT", file)
    assert pruning_lm.merged(result) == result
    file.write_text(pruning_lm.json.dumps({**result, "losses": {"7": {}}}))
    assert set(pruning_lm.merged(result)["losses"]) == {"7", "0"}
    file.write_text(pruning_lm.json.dumps({**result, "steps": 1, "losses": {"7": {}}}))
    assert set(pruning_lm.merged(result)["losses"]) == {"0"}
