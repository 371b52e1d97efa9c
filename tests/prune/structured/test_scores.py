"""Scores of units, against NumPy in float64 written from the equations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compress import prune
from compress.prune.structured.members import unit_sums
from compress.prune.structured.normalise import normalise
from tests.prune.structured.models import (
    DEPTH,
    HIDDEN,
    INNER,
    LAYERS,
    STREAM,
    conv,
    conv_groups,
    conv_params,
    mlp,
    mlp_groups,
    mlp_params,
    stack,
    stack_groups,
    stack_params,
)


def wide(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def batches(*shape: int, count: int = 3) -> list[Any]:
    rng = np.random.default_rng(5)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for _ in range(count)]


def close(found: Any, expected: Any) -> None:
    # float32 sums of about a hundred terms
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def hidden_units(value: Any) -> list[list[np.ndarray]]:
    """The weights of each unit of the two hidden layers of the perceptron."""
    first = [
        [value["a"][:, i], value["a_bias"][i : i + 1], value["b"][i]] for i in range(12)
    ]
    second = [
        [value["b"][:, i], value["b_bias"][i : i + 1], value["c"][i]] for i in range(20)
    ]
    return [np.concatenate(w) for w in first], [np.concatenate(w) for w in second]


def test_l1_and_l2_are_the_norms_of_all_weights_of_a_unit() -> None:
    params = mlp_params()
    for order, score in ((1, "l1"), (2, "l2")):
        found = prune.unit_scores(mlp_groups(), params, score).values
        for name, units in zip(("a:1", "b:1"), hidden_units(wide(params))):
            close(found[name], [np.linalg.norm(unit, order) for unit in units])
        assert set(found) == {"a:1", "b:1"}


def square_loss(params: Any, x: Any) -> Any:
    return jnp.mean(jnp.square(mlp(params, x)))


def numpy_grads(p: Any, x: np.ndarray) -> dict[str, np.ndarray]:
    """Backpropagation by hand through the perceptron with the mean square."""
    u = x @ p["a"] + p["a_bias"]
    h = np.maximum(u, 0)
    v = h @ p["b"] + p["b_bias"]
    k = np.maximum(v, 0)
    out = k @ p["c"]
    d_out = 2 * out / out.size
    d_v = (d_out @ p["c"].T) * (v > 0)
    d_u = (d_v @ p["b"].T) * (u > 0)
    return {
        "a": x.T @ d_u,
        "a_bias": d_u.sum(0),
        "b": h.T @ d_v,
        "b_bias": d_v.sum(0),
        "c": k.T @ d_out,
    }


@pytest.mark.parametrize("score", ["taylor", "fisher"])
def test_gradient_scores_are_those_of_the_equations_averaged_over_batches(
    score: str,
) -> None:
    params, data = mlp_params(), batches(4, 6)
    found = prune.unit_scores(
        mlp_groups(), params, score, batches=data, loss=square_loss
    ).values
    p, expected = wide(params), {"a:1": 0.0, "b:1": 0.0}
    for x in data:
        grads = numpy_grads(p, np.asarray(x, np.float64))
        products = {name: p[name] * grads[name] for name in p}
        for name, units in zip(expected, hidden_units(products)):
            one = (
                [abs(u.sum()) for u in units]
                if score == "taylor"
                else [np.square(u).sum() for u in units]
            )
            expected[name] = expected[name] + np.array(one) / len(data)
    for name, value in expected.items():
        close(found[name], value)


def test_the_activation_score_is_the_readers_magnitude_times_what_they_read() -> None:
    params, data = mlp_params(), batches(4, 6)
    found = prune.unit_scores(
        mlp_groups(), params, "activation", batches=data, forward=mlp
    )
    p = wide(params)
    x = np.concatenate([np.asarray(x, np.float64) for x in data])
    h = np.maximum(x @ p["a"] + p["a_bias"], 0)
    k = np.maximum(h @ p["b"] + p["b_bias"], 0)
    rms = lambda v: np.sqrt(np.square(v).mean(0))  # noqa: E731
    close(found.values["a:1"], np.abs(p["b"]).sum(1) * rms(h))
    close(found.values["b:1"], np.abs(p["c"]).sum(1) * rms(k))
    assert found.records == ()


def test_layers_of_a_scan_are_scored_each_alone_and_with_what_each_reads() -> None:
    params, data = stack_params(), batches(3, 5)
    p = wide(params)
    groups = stack_groups()
    found = prune.unit_scores(groups, params, "l1").values
    up, bias, down = (p["layers"][n] for n in ("up", "bias", "down"))
    close(
        found[INNER],
        np.abs(up).sum(1) + np.abs(bias) + np.abs(down).sum(2),
    )
    close(
        found[DEPTH],
        [
            np.abs(w).sum()
            for w in (
                np.concatenate([u.ravel(), b, d.ravel()])
                for u, b, d in zip(up, bias, down)
            )
        ],
    )
    # The tied embedding counts once.
    close(
        found[STREAM],
        np.abs(p["embed"]).sum(0) + np.abs(up).sum((0, 2)) + np.abs(down).sum((0, 1)),
    )
    scored = prune.unit_scores(
        groups, params, "activation", batches=data, forward=stack
    )
    h = np.concatenate([np.asarray(x, np.float64) for x in data]) @ p["embed"]
    expected = np.zeros((LAYERS, HIDDEN))
    for i in range(LAYERS):
        inner = np.maximum(h @ up[i] + bias[i], 0)
        expected[i] = np.abs(down[i]).sum(1) * np.sqrt(np.square(inner).mean(0))
        h = h + inner @ down[i]
    close(scored.values[INNER], expected)
    # No site reads along the layers.
    assert [record["group"] for record in scored.records] == [DEPTH]
    assert scored.records[0]["score"] == "l2"
    close(scored.values[DEPTH], prune.unit_scores(groups, params, "l2").values[DEPTH])


def test_a_weight_on_both_axes_of_a_group_counts_once() -> None:
    params, groups = conv_params(), conv_groups()
    p = wide(params)
    found = prune.unit_scores(groups, params, "l1").values["in:3.1"]
    expected = []
    for unit in range(4):
        mine = np.isin(np.arange(8), [unit, unit + 4])
        either = mine[:, None] | mine[None, :]
        expected.append(
            np.abs(p["in"][..., mine]).sum()
            + np.abs(p["square"][:, :, either]).sum()
            + np.abs(p["grouped"][:, :, unit]).sum()
        )
    close(found, expected)


def test_a_grouped_convolution_reads_each_of_its_groups_channels() -> None:
    params, groups, data = conv_params(), conv_groups(), batches(2, 5, 5, 2)
    found = prune.unit_scores(groups, params, "activation", batches=data, forward=conv)
    numbers = ("NHWC", "HWIO", "NHWC")
    run = lambda x, w: np.asarray(  # noqa: E731
        jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers),
        np.float64,
    )
    first = np.concatenate([np.maximum(run(x, params["in"]), 0) for x in data])
    second = first + run(jnp.asarray(first, jnp.float32), params["square"])
    mean = lambda v: np.square(v).mean((0, 1, 2))  # noqa: E731
    square = np.abs(np.asarray(params["square"])).sum((0, 1, 3)) * np.sqrt(mean(first))
    pooled = np.sqrt(mean(second).reshape(2, 4).mean(0))
    grouped = np.abs(np.asarray(params["grouped"])).sum((0, 1, 3)) * pooled
    np.testing.assert_allclose(
        found.values["in:3.1"], square[:4] + square[4:] + grouped, rtol=1e-4
    )


def test_unit_sums_ignore_parameters_without_values() -> None:
    (group,) = conv_groups().free
    assert not np.asarray(unit_sums({}, group)).any()


# Comparable across groups

SCORES = {"a:1": np.arange(12.0), "b:1": 100.0 * np.arange(20.0)}
ALIVE = {"a:1": np.arange(12) > 1, "b:1": np.ones(20, bool)}


@pytest.mark.parametrize("xp", [np, jnp])
def test_mean_makes_the_units_that_are_left_one_on_average(xp: Any) -> None:
    groups = mlp_groups().free
    scores = {n: xp.asarray(s, xp.float32) for n, s in SCORES.items()}
    alive = {n: xp.asarray(a) for n, a in ALIVE.items()}
    found = normalise(scores, alive, groups, "mean", xp)
    for name in SCORES:
        kept = np.asarray(found[name])[ALIVE[name]]
        assert kept.mean() == pytest.approx(1.0, rel=1e-6)
    assert normalise(scores, alive, groups, "none", xp) == scores


@pytest.mark.parametrize("xp", [np, jnp])
def test_isomorphic_ranks_the_units_of_like_groups_together(xp: Any) -> None:
    scores = {n: xp.asarray(s, xp.float32) for n, s in SCORES.items()}
    alive = {n: xp.asarray(a) for n, a in ALIVE.items()}
    found = normalise(scores, alive, mlp_groups().free, "isomorphic", xp)
    together = np.concatenate([np.asarray(found[n])[ALIVE[n]] for n in SCORES])
    raw = np.concatenate([SCORES[n][ALIVE[n]] for n in SCORES])
    np.testing.assert_allclose(np.sort(together), np.arange(1, 31) / 30, rtol=1e-6)
    np.testing.assert_array_equal(
        np.argsort(together, stable=True), np.argsort(raw, stable=True)
    )


def test_a_group_of_zeros_stays_zero() -> None:
    (group,) = conv_groups().free
    zeros = {group.name: np.zeros(4)}
    alive = {group.name: np.ones(4, bool)}
    assert not normalise(zeros, alive, [group], "mean", np)[group.name].any()


# Bad input


@pytest.mark.parametrize(
    ("score", "given", "message"),
    [
        ("l3", {}, r"score='l3' must be one of"),
        ("taylor", {}, r"Give loss= and at least one of batches="),
        ("activation", {"forward": mlp}, r"Give forward= and at least one"),
    ],
)
def test_a_score_says_what_it_needs(score: str, given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prune.unit_scores(mlp_groups(), mlp_params(), score, **given)


def test_parameters_with_nan_are_refused() -> None:
    params = {**mlp_params(), "a": jnp.full((6, 12), jnp.nan)}
    with pytest.raises(ValueError, match='"a" holds NaN'):
        prune.unit_scores(mlp_groups(), params)
