"""Selection by counting: the masks of a stable sort, wherever the scores are."""

import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.prune.select import keep_largest, keep_largest_per_row
from tests.prune import split_scores

SHAPES = {"a": (5, 7), "b": (13,), "c": (2, 3, 4)}
SIZE = 35 + 13 + 24
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1e-42, -1e-42, 3.4e38, 1.0]
any_float = st.one_of(st.sampled_from(SPECIAL), st.floats(width=32))


def split(values: Any) -> dict[str, np.ndarray]:
    """The values as arrays of those shapes."""
    parts = np.split(np.asarray(values, np.float32), [35, 48])
    return {n: p.reshape(s) for p, (n, s) in zip(parts, SHAPES.items())}


def sorted_away(scores: Any, num_pruned: int) -> dict[str, np.ndarray]:
    """The oracle; in NumPy too NaN comes last, and equals NaN."""
    return split_scores.expected(scores, num_pruned)


@settings(max_examples=100)
@given(
    st.lists(any_float, min_size=SIZE, max_size=SIZE)
    | st.lists(st.sampled_from(SPECIAL[:6]), min_size=SIZE, max_size=SIZE),
    st.integers(0, SIZE),
)
def test_arrays_ranked_together_lose_what_a_stable_sort_puts_first(
    values: list[float], num_pruned: int
) -> None:
    scores = split(values)
    masks = keep_largest(scores, num_pruned)
    for name, mask in sorted_away(scores, num_pruned).items():
        np.testing.assert_array_equal(masks[name], mask)


@given(st.sampled_from(["bfloat16", "float16"]), st.integers(0, 99), st.integers(0, 48))
def test_scores_of_two_bytes_are_ranked_as_they_are(
    dtype: str, seed: int, num_pruned: int
) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    bits = np.random.default_rng(seed).integers(0, 2**16, 48).astype(np.uint16)
    scores = bits.view(kind).reshape(6, 8)
    mask = keep_largest(jnp.asarray(scores), num_pruned)
    expected = sorted_away({"a": scores.astype(np.float32)}, num_pruned)["a"]
    np.testing.assert_array_equal(mask, expected)


@given(st.integers(0, 99), st.lists(st.integers(0, 30), min_size=4, max_size=4))
def test_each_row_may_lose_a_number_of_its_own(seed: int, counts: list[int]) -> None:
    scores = np.random.default_rng(seed).integers(-3, 3, (4, 5, 6)).astype(np.float32)
    masks = keep_largest_per_row(jnp.asarray(scores), jnp.asarray(counts))
    for score, mask, count in zip(scores, masks, counts):
        np.testing.assert_array_equal(mask, sorted_away({"a": score}, count)["a"])


# Beyond this a sample is looked at first.
LARGE = 300_000


def large_scores() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(LARGE).astype(np.float32)
    sizes = 10.0 ** rng.integers(-30, 30, LARGE)
    rare = np.where(np.arange(LARGE) == LARGE - 1, np.float32(7), np.float32(3))
    return {
        "normal": normal,
        "of every size": (normal * sizes).astype(np.float32),
        "few values": np.round(2 * normal),
        "bfloat16": normal.astype(ml_dtypes.bfloat16).astype(np.float32),
        "all equal": np.ones(LARGE, np.float32),
        "one is larger": rare,
        # The sample sees none of the others.
        "misleading": np.where(np.arange(LARGE) % 4 == 0, np.float32(0), normal),
    }


@pytest.mark.parametrize("name", large_scores())
def test_many_scores_are_ranked_exactly_whatever_a_sample_of_them_says(
    name: str,
) -> None:
    scores = large_scores()[name]
    for num_pruned in (0, 1, LARGE // 5, LARGE // 2, LARGE - 1, LARGE):
        mask = keep_largest(scores, num_pruned)
        expected = sorted_away({"a": scores}, num_pruned)["a"]
        np.testing.assert_array_equal(mask, expected)


def test_counts_beyond_what_a_float32_holds_are_exact() -> None:
    size, num_pruned = 2**24 + 64, 2**24 + 1
    mask = np.asarray(keep_largest(jnp.ones(size), num_pruned))
    assert not mask[:num_pruned].any()
    assert mask[num_pruned:].all()


def test_scores_are_ranked_inside_a_gradient() -> None:
    loss = lambda w: jnp.sum(w * keep_largest(jnp.abs(w), 2).astype(w.dtype))  # noqa: E731
    np.testing.assert_array_equal(jax.grad(loss)(jnp.arange(4.0)), [0, 0, 1, 1])


# Devices


def test_scores_on_four_devices_are_ranked_where_they_are() -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    flags += " --xla_force_host_platform_device_count=4"
    flags += " --xla_backend_optimization_level=0"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "error", "-m", "tests.prune.split_scores"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["equal"]


def test_some_scores_split_and_some_not_are_refused() -> None:
    mesh, spec = split_scores.make_mesh((1, 1)), jax.sharding.PartitionSpec
    specs = {"a": spec("data"), "b": spec()}
    ranked = jax.shard_map(
        lambda scores: keep_largest(scores, 3, axis_name="data"),
        mesh=mesh,
        in_specs=(specs,),
        out_specs=specs,
    )
    with pytest.raises(ValueError, match="some are not.*Rank them apart"):
        ranked({"a": jnp.ones((4, 2)), "b": jnp.ones((4, 2))})


# Bad input


def test_scores_that_are_not_float_are_refused() -> None:
    with pytest.raises(TypeError, match=r"\(3,\) are int32\. Convert them to float32"):
        keep_largest(jnp.arange(3), 1)


def test_more_scores_than_int32_counts_are_refused() -> None:
    scores = [jax.ShapeDtypeStruct((2**30, 1), "float32")] * 2
    with pytest.raises(ValueError, match="2147483648 scores.*each site alone"):
        jax.eval_shape(keep_largest, scores, 1)
