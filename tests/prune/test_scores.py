"""Scores are the numbers their papers say, and never NaN without a word."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import compress
from compress import ContractError, prune, ramp
from compress.prune.scores import Evidence, as_score


def arrays(seed: int, count: int = 3) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    shapes = {"a": (4, 3), "b": (2,)}
    return [
        {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}
        for _ in range(count)
    ]


def on_device(tree: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: jnp.asarray(x) for name, x in tree.items()}


def test_saliency_is_the_size_of_weight_times_gradient_where_that_was_taken() -> None:
    after, grads, before = arrays(0)
    evidence = Evidence(*map(on_device, (after, grads, before)))
    found = prune.saliency_score().scores((), evidence)
    for name in before:
        expected = np.abs(before[name].astype(np.float64) * grads[name])
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)


def test_movement_adds_up_what_moves_away_from_zero() -> None:
    score = prune.movement_score()
    assert score.update is not None
    memory = score.init(on_device(arrays(0, 1)[0]))
    expected = {"a": np.zeros((4, 3)), "b": np.zeros(2)}
    for step in range(4):
        after, grads, before = arrays(step)
        evidence = Evidence(*map(on_device, (after, grads, before)))
        memory = score.update(memory, evidence)
        for name in expected:
            expected[name] -= before[name].astype(np.float64) * grads[name]
    found = score.scores(memory, evidence)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)


def test_random_scores_are_a_function_of_the_seed_and_the_path() -> None:
    evidence = Evidence({"a": jnp.ones((5, 5)), "b": jnp.ones((5, 5))})
    draw = lambda seed: prune.random_score(seed).scores((), evidence)  # noqa: E731
    one, again, other = draw(0), draw(0), draw(1)
    np.testing.assert_array_equal(one["a"], again["a"])
    assert (np.asarray(one["a"]) != np.asarray(other["a"])).all()
    assert (np.asarray(one["a"]) != np.asarray(one["b"])).all()


def test_an_unknown_score_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of .*'movement'"):
        as_score("magnitud", "prune.connections")


@pytest.mark.parametrize("score", ["saliency", "movement"])
def test_a_score_of_gradients_cannot_choose_before_the_first_step(score: str) -> None:
    with pytest.raises(ValueError, match=r"Let masks be chosen later, as by ramp\("):
        prune.connections(0.5, score=score)
    prune.connections(ramp(0.0, 0.5, steps=(1, 1)), score=score)


def model(params: Any, x: Any) -> Any:
    return x @ params["w"]


PARAMS = {"w": jnp.arange(1.0, 13.0).reshape(4, 3)}
X = jnp.ones((2, 4))


def test_a_score_without_the_gradients_it_needs_says_what_to_pass() -> None:
    transform = prune.connections(ramp(0.0, 0.5, steps=(1, 1)), score="movement")
    state = compress.init(model, transform, PARAMS, X)
    with pytest.raises(ValueError, match=r"needs before\. Pass compress\.update\("):
        compress.update(transform, state, PARAMS, PARAMS)


def test_scores_that_are_nan_are_reported_and_their_weights_kept() -> None:
    transform = prune.connections(ramp(0.0, 0.5, steps=(1, 1)), score="saliency")
    state = compress.init(model, transform, PARAMS, X)
    compress.check(transform, PARAMS, state)
    grads = {"w": jnp.ones((4, 3)).at[0, :2].set(jnp.nan)}
    state = compress.update(transform, state, PARAMS, grads, None, PARAMS)
    mask = np.asarray(state.memory.masks["w"])
    assert (~mask).sum() == 6
    assert mask[0, :2].all()
    with pytest.raises(ContractError, match="2 scores were NaN.*lower learning rate"):
        compress.check(transform, PARAMS, state)
