"""Scores over several devices; run as a module, it ranks some over four of them."""

import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as Spec

from compress.prune.select import keep_largest

SHAPES = {"a": (512, 600), "b": (64, 4, 30)}
# Within the ties of `a`, and of `b`.
NUM_PRUNED = (100_000, 309_000)
AUTOMATIC = (
    {"a": Spec("data", "model"), "b": Spec("model")},
    # 30 is not divided by four: the last device has less.
    {"a": Spec(None, "data"), "b": Spec(None, None, ("data", "model"))},
)
Scores = dict[str, np.ndarray]


def make_scores() -> Scores:
    """Ties everywhere, enough of them that a sample is looked at first."""
    rng = np.random.default_rng(0)
    return {n: rng.integers(-3, 4, s).astype(np.float32) for n, s in SHAPES.items()}


def make_mesh(shape: tuple[int, int]) -> jax.sharding.Mesh:
    return jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def expected(scores: Scores, num_pruned: int) -> Scores:
    """The masks by a stable sort in NumPy."""
    flat = np.concatenate([score.ravel() for score in scores.values()])
    mask = np.ones(flat.size, bool)
    mask[np.argsort(flat, kind="stable")[:num_pruned]] = False
    parts = np.split(mask, np.cumsum([score.size for score in scores.values()])[:-1])
    return {n: m.reshape(scores[n].shape) for n, m in zip(scores, parts)}


def check_automatic(mesh: Any, specs: dict[str, Spec]) -> None:
    """The same masks as NumPy's, and no device is sent the scores of another."""
    shardings = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}

    @jax.jit
    def keep(scores: Any, num_pruned: Any) -> Any:
        split = jax.lax.with_sharding_constraint(scores, shardings)
        masks = keep_largest(split, num_pruned)
        return jax.lax.with_sharding_constraint(masks, shardings)

    compiled = keep.lower(make_scores(), np.int32(0)).compile()
    check_moved(compiled.as_text())
    for num_pruned in NUM_PRUNED:
        masks = compiled(make_scores(), np.int32(num_pruned))
        for name, mask in expected(make_scores(), num_pruned).items():
            np.testing.assert_array_equal(masks[name], mask)


def check_moved(program: str) -> None:
    """Of the scores one row at most is sent; of counts one number per row."""
    pattern = r"= (?:\(?)(\w+)\[([\d,]*)\]\S* (?:all-gather|all-to-all|all-reduce)\("
    moved = re.findall(pattern, program)
    assert moved
    largest = {}
    for dtype, shape in moved:
        size = int(np.prod([int(d) for d in shape.split(",") if d]))
        largest[dtype] = max(size, largest.get(dtype, 0))
    assert largest.get("f32", 0) <= 600, largest


def check_manual(mesh: Any, axes: tuple[str, ...]) -> None:
    """Inside shard_map, split over the leading axis as the ranking's order is."""
    specs = dict.fromkeys(SHAPES, Spec(axes))
    ranked = jax.shard_map(
        lambda scores, k: keep_largest(scores, k, axis_name=axes),
        mesh=mesh,
        in_specs=(specs, Spec()),
        out_specs=specs,
    )
    for num_pruned in NUM_PRUNED:
        masks = jax.jit(ranked)(make_scores(), np.int32(num_pruned))
        for name, mask in expected(make_scores(), num_pruned).items():
            np.testing.assert_array_equal(masks[name], mask)


if __name__ == "__main__":
    mesh = make_mesh((2, 2))
    for specs in AUTOMATIC:
        check_automatic(mesh, specs)
    check_manual(mesh, ("data", "model"))
    print("equal")
