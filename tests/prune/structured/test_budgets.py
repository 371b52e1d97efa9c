"""Budgets: met within one step, by multiples of what was asked, greedily."""

import json
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import compress
from compress import prune
from compress.prune.structured.costs import macs_of, parameters_of, polynomial_in
from compress.prune.structured.settings import Settings, kept_sizes, pose
from compress.sites import Groups
from tests.prune.structured.models import (
    DEPTH,
    HIDDEN,
    INNER,
    LAYERS,
    STREAM,
    conv_groups,
    mlp,
    mlp_groups,
    mlp_params,
    stack_groups,
)


def random_scores(groups: Groups, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = lambda g: (g.size,) if g.layers is None else (g.layers, g.size)  # noqa: E731
    return {g.name: rng.random(shape(g)) ** 2 for g in groups.free}


def full_sizes(groups: Groups, choice: prune.Choice) -> dict[str, int]:
    return {g.name: choice.sizes.get(g.name, g.size) for g in groups.free}


MODELS = {"mlp": mlp_groups, "stack": stack_groups, "conv": conv_groups}


@given(
    st.sampled_from(list(MODELS)),
    st.sampled_from(["parameters", "macs"]),
    st.floats(0.3, 1.0),
    st.sampled_from([1, 2, 4]),
    st.sampled_from(["mean", "none", "isomorphic"]),
    st.sampled_from(["global", "uniform"]),
    st.integers(0, 5),
)
@settings(max_examples=100)
def test_a_budget_is_met_with_less_than_one_step_to_spare(
    model: str,
    kind: str,
    target: float,
    round_to: int,
    normalize: str,
    allocation: str,
    seed: int,
) -> None:
    groups = MODELS[model]()
    count = getattr(groups, kind)
    try:
        choice = prune.choose_units(
            groups,
            random_scores(groups, seed),
            budget={kind: target},
            round_to=round_to,
            normalize=normalize,
            allocation=allocation,
        )
    except ValueError as error:
        assert re.search("cannot be met|every group whole", str(error))  # noqa: PT017
        smallest = {g.name: kept_sizes(g.size, round_to, 1)[-1] for g in groups.free}
        smallest.pop(DEPTH, None)
        assert count(smallest) > target * count()
        return
    assert count(choice.sizes) <= target * count() * (1 + 1e-9)
    assert choice.left[kind] == pytest.approx(count(choice.sizes) / count())
    for g in groups.free:
        size = choice.sizes.get(g.name, g.size)
        assert size == g.size or (size % round_to == 0 and 0 < size < g.size)
        if g.name in choice.keep:
            kept = choice.keep[g.name]
            assert kept.shape == ((size,) if g.layers is None else (g.layers, size))
            assert (np.diff(kept, axis=-1) > 0).all()

    # Some group was the last to go: with its last step back the budget is exceeded.
    def before(g: Any) -> int:
        sizes = kept_sizes(g.size, round_to, 1)
        return sizes[sizes.index(choice.sizes[g.name]) - 1]

    back = [
        count({**choice.sizes, g.name: before(g)})
        for g in groups.free
        if g.name in choice.sizes
    ]
    assert not back or max(back) > target * count()


@given(st.floats(0.35, 1.0), st.floats(0.35, 1.0), st.integers(0, 5))
def test_a_smaller_budget_keeps_a_subset(
    first: float, second: float, seed: int
) -> None:
    groups = mlp_groups()
    low, high = (
        prune.choose_units(
            groups, random_scores(groups, seed), budget={"macs": b}, round_to=2
        ).keep
        for b in sorted((first, second))
    )
    assert set(high) <= set(low)
    assert all(set(low[name]) <= set(high[name]) for name in high)


def slow_greedy(
    groups: Groups, scores: Mapping[str, np.ndarray], target: float
) -> dict[str, int]:
    """The definition: always the step that loses least score per parameter saved."""
    ordered = {name: np.sort(s / s.mean()) for name, s in scores.items()}
    sizes = {g.name: g.size for g in groups.free}
    whole = {g.name: g.size for g in groups.free}
    while groups.parameters(sizes) > target * groups.parameters():
        best = None
        for name, size in sizes.items():
            if size > 1:
                after = {**sizes, name: size - 1}
                saved = groups.parameters(sizes) - groups.parameters(after)
                priority = ordered[name][whole[name] - size] / saved
                if best is None or priority < best[0]:
                    best = (priority, name)
        assert best is not None
        sizes[best[1]] -= 1
    return sizes


@pytest.mark.parametrize("seed", range(4))
def test_the_lazy_queue_is_the_greedy_choice(seed: int) -> None:
    groups = mlp_groups(40, 60)
    scores = random_scores(groups, seed)
    choice = prune.choose_units(groups, scores, budget={"parameters": 0.3}, round_to=1)
    assert full_sizes(groups, choice) == slow_greedy(groups, scores, 0.3)
    for name, kept in choice.keep.items():
        gone = np.setdiff1d(np.arange(len(scores[name])), kept)
        assert scores[name][gone].max() <= scores[name][kept].min()


def test_uniform_takes_the_same_fraction_of_each_group() -> None:
    groups = mlp_groups(40, 80)
    choice = prune.choose_units(
        groups,
        random_scores(groups),
        budget={"macs": 0.5},
        round_to=4,
        allocation="uniform",
    )
    fractions = [size / {"a:1": 40, "b:1": 80}[n] for n, size in choice.sizes.items()]
    assert len(fractions) == 2
    assert abs(fractions[0] - fractions[1]) <= 4 / 40


def test_each_layer_keeps_its_own_most_important_units() -> None:
    groups = stack_groups()
    scores = random_scores(groups)
    choice = prune.choose_units(
        groups, scores, budget={"macs": 0.5}, names=INNER, round_to=4
    )
    kept, normalised = choice.keep[INNER], scores[INNER]
    assert kept.shape == (LAYERS, choice.sizes[INNER])
    for layer in range(LAYERS):
        gone = np.setdiff1d(np.arange(HIDDEN), kept[layer])
        assert normalised[layer, gone].max() <= normalised[layer, kept[layer]].min()


def test_the_least_important_layers_are_dropped_first() -> None:
    groups = stack_groups()
    scores = random_scores(groups)
    choice = prune.choose_units(
        groups,
        scores,
        budget={"parameters": 0.4},
        drop_layers=2,
        round_to=4,
        exclude=STREAM,
    )
    best = np.sort(np.argsort(scores[DEPTH])[2:])
    np.testing.assert_array_equal(choice.keep[DEPTH], best)
    assert groups.parameters(choice.sizes) <= 0.4 * groups.parameters()


def test_units_of_dropped_layers_do_not_count() -> None:
    groups = stack_groups()
    scores = random_scores(groups)
    dropped = np.argsort(scores[DEPTH])[:2]
    dear = {**scores, INNER: scores[INNER].copy()}
    dear[INNER][dropped] *= 1e6
    sizes = [
        prune.choose_units(
            groups,
            some,
            budget={"parameters": 0.2},
            drop_layers=2,
            round_to=1,
            normalize="none",
        ).sizes
        for some in (scores, dear)
    ]
    assert INNER in sizes[0]
    assert sizes[0] == sizes[1]


def test_units_a_mask_removed_do_not_come_back() -> None:
    groups = mlp_groups()
    scores = random_scores(groups)
    alive = {"a:1": np.arange(12) >= 4, "b:1": np.ones(20, bool)}
    scores["a:1"][:4] = 1e6
    whole = prune.choose_units(
        groups, scores, budget={"macs": 1.0}, round_to=4, alive=alive
    )
    np.testing.assert_array_equal(whole.keep["a:1"], np.arange(4, 12))
    assert set(whole.keep) == {"a:1"}
    half = prune.choose_units(
        groups, scores, budget={"macs": 0.5}, round_to=4, alive=alive
    )
    assert set(half.keep["a:1"]) <= set(range(4, 12))


def test_sizes_a_group_may_have() -> None:
    assert kept_sizes(20, 8, 1) == [20, 16, 8]
    assert kept_sizes(16, 8, 1) == [16, 8]
    assert kept_sizes(16, 8, 9) == [16]
    assert kept_sizes(5, 8, 1) == [5]
    assert kept_sizes(4, 1, 2) == [4, 3, 2]


# Costs


@given(st.sampled_from(list(MODELS)), st.integers(0, 100))
def test_the_polynomial_is_the_cost_at_any_sizes(model: str, seed: int) -> None:
    groups = MODELS[model]()
    rng = np.random.default_rng(seed)
    sizes = {g.name: int(rng.integers(1, g.size + 1)) for g in groups.free}
    removed = np.array([g.size - sizes[g.name] for g in groups.free], float)
    for cost, count in (
        (parameters_of(groups), groups.parameters),
        (macs_of(groups), groups.macs),
    ):
        polynomial = polynomial_in(cost, groups, groups.free)
        assert polynomial.value(removed) == count(sizes)
        assert polynomial.whole == count()


def test_concatenated_channels_add_up_in_a_cost() -> None:
    def forward(p: Any, x: Any) -> Any:
        h = jnp.concatenate([x @ p["a"], jnp.tanh(x @ p["b"])], axis=1)
        return h @ p["c"]

    params = {"a": np.ones((3, 4)), "b": np.ones((3, 6)), "c": np.ones((10, 2))}
    groups = compress.find_groups(forward, params, np.ones((1, 3)))
    assert len(groups.free) == 2
    polynomial = polynomial_in(parameters_of(groups), groups, groups.free)
    for removed in ([0, 0], [1, 2], [3, 5]):
        expected = 5 * (4 - removed[0]) + 5 * (6 - removed[1])
        assert polynomial.value(np.array(removed, float)) == expected


def test_hundreds_of_groups_and_thousands_of_units_are_chosen() -> None:
    # One count of the cost per unit would be quadratic in them, and take minutes.
    def forward(p: Any, x: Any) -> Any:
        for name in sorted(p):
            x = x @ p[name]
        return x

    shapes = [(10, 64), *[(64, 64)] * 100, (64, 10)]
    params = {f"w{i:03d}": np.ones(shape) for i, shape in enumerate(shapes)}
    groups = compress.find_groups(forward, params, np.ones((1, 10)))
    assert len(groups.free) == 101
    choice = prune.choose_units(
        groups, random_scores(groups), budget={"macs": 0.5}, round_to=1
    )
    assert 0.499 < choice.left["macs"] <= 0.5


def test_bit_operations_count_the_bits_of_each_site() -> None:
    params, x = mlp_params(), np.zeros((1, 6), np.float32)
    groups, sites = mlp_groups(), compress.find_sites(mlp, params, x)
    cost = prune.bops_of(groups, sites, {"b": (8, 8), "c": (4, 8)})
    polynomial = polynomial_in(cost, groups, groups.free)
    for a, b in ((12, 20), (5, 20), (5, 7)):
        expected = 1024 * 6 * a + 64 * a * b + 32 * 3 * b
        assert polynomial.value(np.array([12.0 - a, 20.0 - b])) == expected
    choice = prune.choose_units(
        groups, random_scores(groups), budget={"bops": 0.5}, round_to=1, bops=cost
    )
    assert choice.left["bops"] <= 0.5
    with pytest.raises(ValueError, match=r'bits\["nope"\] is none of the sites'):
        prune.bops_of(groups, sites, {"nope": (8, 8)})


# Latency


def staircase(keep: Mapping[str, np.ndarray], calls: list[Any]) -> float:
    """A machine whose time is a staircase of one width."""
    calls.append(keep)
    width = len(keep.get("b:1", range(64)))
    return 0.1 + 0.9 * np.ceil(width / 16) / 4


@pytest.mark.parametrize("target", [0.95, 0.8, 0.5, 0.34])
def test_a_latency_is_met_by_measuring_a_few_times(target: float) -> None:
    groups, calls = mlp_groups(32, 64), []
    choice = prune.choose_units(
        groups,
        random_scores(groups),
        budget={"latency": target},
        round_to=4,
        allocation="uniform",
        measure=lambda keep: staircase(keep, calls),
    )
    assert staircase(choice.keep, []) <= target
    assert len(calls) <= 8
    widths = [tuple(len(keep.get(n, ())) for n in ("a:1", "b:1")) for keep in calls]
    assert len(set(widths)) == len(widths)
    # Nothing larger was measured to be as fast.
    fast = [macs for macs, ratio in choice.measured if ratio <= target]
    assert choice.budget["macs"] == max(fast)
    slow = [macs for macs, ratio in choice.measured if ratio > target]
    assert not slow or min(slow) > max(fast)
    assert len(calls) == 8 or min([*slow, 1.0]) - max(fast) <= 0.02


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": {"macs": 0.01}}, r"cannot be met.*Ask for 0\.\d+ or more"),
        ({"budget": {"macs": 0.0}}, "above 0 and at most 1"),
        ({"budget": {"flops": 0.5}}, "must name one of"),
        ({"budget": {"macs": 0.5, "parameters": 0.5}}, "must name one of"),
        ({"budget": {"bops": 0.5}}, r"Give bops=prune\.bops_of"),
        ({"budget": {"latency": 0.5}}, "needs measure="),
        ({"measure": len}, "measure is for a budget of latency"),
        ({"round_to": 32}, r'largest, "b:1", has 20 units. Set round_to to at most 19'),
        ({"round_to": 0}, "round_to=0 must be at least 1"),
        ({"normalize": "max"}, "normalize='max' must be one of"),
        ({"allocation": "fair"}, "allocation='fair' must be one of"),
        ({"drop_layers": 1}, "no group of layers can lose any"),
        ({"names": "a:0"}, "an axis of the model's input"),
        ({"names": "z*"}, "matches none"),
        ({"scores": {"a:1": np.ones(12)}}, 'no score for "b:1"'),
        ({"alive": {"a:1": np.ones(3, bool)}}, r"alive.*has shape \(3,\)"),
    ],
)
def test_bad_input_is_refused_with_the_remedy(change: Any, message: str) -> None:
    groups = mlp_groups()
    given = {"scores": random_scores(groups), "budget": {"macs": 0.5}, **change}
    with pytest.raises(ValueError, match=message):
        prune.choose_units(groups, given.pop("scores"), **given)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_scores_that_are_no_importance_are_refused(bad: float) -> None:
    groups = mlp_groups()
    scores = random_scores(groups)
    scores["a:1"][3] = bad
    with pytest.raises(ValueError, match=r'1 scores of "a:1" are NaN.*learning'):
        prune.choose_units(groups, scores, budget={"macs": 0.5})


def test_the_nearest_budget_that_is_named_can_be_met() -> None:
    groups = mlp_groups()
    with pytest.raises(ValueError, match="Ask for") as error:
        pose(Settings(groups, {"parameters": 0.01}))
    nearest = float(str(error.value).split("Ask for ")[1].split(" ")[0])
    problem = pose(Settings(groups, {"parameters": nearest}))
    assert problem.target == nearest
    with pytest.raises(ValueError, match="Ask for"):
        pose(Settings(groups, {"parameters": nearest - 2e-4}))


def test_more_layers_than_there_are_cannot_be_dropped() -> None:
    groups = stack_groups()
    with pytest.raises(ValueError, match=r'bias:0" has 4 layers. Drop at most 3'):
        prune.choose_units(
            groups, random_scores(groups), budget={"macs": 0.5}, drop_layers=4
        )


# Keep lists


def test_what_is_kept_survives_a_file() -> None:
    groups = stack_groups()
    choice = prune.choose_units(
        groups, random_scores(groups), budget={"macs": 0.4}, drop_layers=1, round_to=2
    )
    text = json.dumps(prune.keep_to_json(choice.keep))
    again = prune.keep_from_json(json.loads(text), groups)
    assert set(again) == set(choice.keep)
    for name, kept in choice.keep.items():
        assert again[name].dtype == kept.dtype
        np.testing.assert_array_equal(again[name], kept)
    assert prune.sizes_of(again) == choice.sizes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"other": [0]}, "no such group in this model"),
        ({STREAM: [1, 0]}, "not sorted indices of its 6 units"),
        ({STREAM: [0, 6]}, "not sorted indices"),
        ({STREAM: []}, "not sorted indices"),
        ({STREAM: [0.5]}, "not sorted indices"),
        ({INNER: [0, 1]}, "a list for each of 4 layers"),
    ],
)
def test_a_keep_of_another_model_is_refused(content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prune.keep_from_json(content, stack_groups())
