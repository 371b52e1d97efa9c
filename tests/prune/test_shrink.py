"""The shrunk program is the masked one: values, gradients, counts, and no more."""

from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import compress
from compress.prune import mask_units
from tests.prune.proofs import (
    alone_and_together,
    difference,
    edit,
    is_closed,
    largest,
    random_keep,
    readers_zero_and_garbage_elsewhere,
)
from tests.prune.zoo import CASES, Case, decoder, random_like

# float32 has 24 bits; sums of some hundred terms in another order lose some of them.
_TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def as_flax_needs_it() -> Generator[None]:
    """Flax mixes ranks and dtypes."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


# Twins of others: of the scanned decoder, and of the transformer in NNX.
_IN_DEPTH = ("decoder rematerialised", "decoder unrolled", "linen transformer")


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.slow if name in _IN_DEPTH else ())
        for name in CASES
    ]
)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]()


def _groups(case: Case) -> Any:
    return compress.find_groups(case.forward, case.params, *case.inputs)


def test_the_groups_are_the_known_ones_and_no_more_is_coupled(case: Case) -> None:
    assert sorted(group.size for group in _groups(case).free) == case.sizes


def test_every_group_alone_and_all_together_equal_the_model_that_does_not_read_them(
    case: Case,
) -> None:
    groups, forward = _groups(case), jax.jit(case.forward)
    scale = largest(forward(case.params, *case.inputs))
    for keep in alone_and_together(random_keep(groups)):
        small = compress.shrink(case.forward, case.params, keep, groups=groups)
        found = jax.jit(small.forward)(small.params, *case.inputs)
        for masked in (
            mask_units(case.params, groups, keep),
            readers_zero_and_garbage_elsewhere(case.params, groups, keep),
        ):
            expected = forward(masked, *case.inputs)
            assert difference(found, expected) < _TOLERANCE * scale, list(keep)


def test_gradients_of_what_is_kept_are_those_of_the_masked_model(case: Case) -> None:
    groups = _groups(case)
    keep = random_keep(groups, seed=1)
    small = compress.shrink(case.forward, case.params, keep, groups=groups)

    def loss(forward: Any) -> Any:
        return jax.jit(jax.grad(lambda p: jnp.sum(forward(p, *case.inputs) ** 2)))

    found = loss(small.forward)(small.params)
    masked = mask_units(case.params, groups, keep)
    expected = small.take(loss(case.forward)(masked))
    assert difference(found, expected) < 10 * _TOLERANCE * largest(expected)


def test_nothing_depends_on_what_is_removed(case: Case) -> None:
    groups = _groups(case)
    grad = jax.jit(jax.grad(lambda p: jnp.sum(case.forward(p, *case.inputs))))
    for name, kept in random_keep(groups).items():
        group = groups[name]
        if is_closed(group) and case.centred:
            continue
        keep = {name: kept}
        unread = edit(
            case.params,
            groups,
            keep,
            lambda g, m, old: old * 0 if m.reads or is_closed(g) else old,
        )
        grads = grad(unread)
        arrays = map(np.asarray, jax.tree.leaves(grads))
        paths = dict(zip(compress.sites.flat_paths(grads), arrays))
        removed = np.setdiff1d(np.arange(group.size), kept)
        for member in group.members:
            if member.reads and not member.writes:
                continue
            positions = member.indices[removed].ravel()
            slices = np.take(paths[member.path], positions, member.axis)
            assert not slices.any(), (name, member.path)


def test_predicted_parameters_and_products_are_those_counted(case: Case) -> None:
    groups, shapes = _groups(case), jax.eval_shape(lambda: case.params)
    for keep in alone_and_together(random_keep(groups)):
        small = compress.shrink(case.forward, shapes, keep, groups=groups)
        sizes = {name: len(kept) for name, kept in keep.items()}
        counted = sum(leaf.size for leaf in jax.tree.leaves(small.params))
        assert counted == groups.parameters(sizes)
        sites = compress.find_sites(small.forward, small.params, *case.inputs)
        assert sum(site.macs for site in sites) == groups.macs(sizes)


def test_layers_of_a_scan_may_each_keep_their_own_units() -> None:
    case = decoder("scanned")
    groups, rng = _groups(case), np.random.default_rng(3)
    keep = {
        group.name: np.sort(
            np.stack(
                [
                    rng.choice(group.size, max(1, group.size // 2), replace=False)
                    for _ in range(group.layers or 0)
                ]
            )
        )
        for group in groups.free
        # pairs of rotated dimensions share one table of angles
        if group.layers
    }
    assert sorted(groups[name].size for name in keep) == [2, 2, 6, 10]
    small = compress.shrink(case.forward, case.params, keep, groups=groups)
    expected = case.forward(mask_units(case.params, groups, keep), *case.inputs)
    found = small.forward(small.params, *case.inputs)
    assert difference(found, expected) < _TOLERANCE * largest(expected)
    shapes = jax.eval_shape(lambda: case.params)
    abstract = compress.shrink(case.forward, shapes, keep, groups=groups)
    assert abstract.widths == small.widths


def test_a_rescaled_norm_is_that_of_the_smaller_model() -> None:
    width = 6
    params = random_like(
        {
            "up": jax.ShapeDtypeStruct((4, width), jnp.float32),
            "scale": jax.ShapeDtypeStruct((width,), jnp.float32),
            "down": jax.ShapeDtypeStruct((width, 3), jnp.float32),
        }
    )

    def forward(params: Any, x: Any) -> Any:
        h = x @ params["up"]
        mean = jnp.mean(h * h, axis=-1, keepdims=True)
        return (h / jnp.sqrt(mean) * params["scale"][None]) @ params["down"]

    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
    keep = {"up:1": [0, 2, 5]}
    small = compress.shrink(forward, params, keep, x, normalization="rescaled")
    built = forward(small.params, x)  # as a module of that width computes it
    assert difference(small.forward(small.params, x), built) < _TOLERANCE
    exact = compress.shrink(forward, params, keep, x)
    assert difference(exact.forward(exact.params, x), built) > 0.1


def test_keep_lists_from_json_give_identical_bits() -> None:
    import json

    case = CASES["convolutions"]()
    keep = random_keep(_groups(case))
    text = json.dumps({name: kept.tolist() for name, kept in keep.items()})
    first = compress.shrink(case.forward, case.params, keep, *case.inputs)
    again = compress.shrink(case.forward, case.params, json.loads(text), *case.inputs)
    for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(again.params)):
        assert np.array_equal(a, b)
    assert first.widths == {
        path: leaf.shape
        for path, leaf in zip(
            compress.sites.flat_paths(first.params), jax.tree.leaves(first.params)
        )
    }


def test_batch_statistics_dropout_and_training_mode_shrink_along() -> None:
    import flax.linen as linen

    class Model(linen.Module):
        @linen.compact
        def __call__(self, x: Any, train: bool = False) -> Any:
            x = linen.Conv(8, (3, 3))(x)
            x = linen.relu(linen.BatchNorm(use_running_average=not train)(x))
            x = linen.Dropout(0.5, deterministic=not train)(x)
            return linen.Dense(3)(x.mean(axis=(1, 2)))

    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 5, 3)), jnp.float32)
    variables = Model().init(jax.random.key(0), x)
    model = compress.from_linen(Model(), variables)
    groups = compress.find_groups(
        model.forward, model.params, x, model_state=model.model_state
    )
    assert [group.size for group in groups.free] == [8]
    (group,) = groups.free
    keep = {group.name: [1, 2, 6]}
    small = compress.shrink(
        model.forward, model.params, keep, groups=groups, model_state=model.model_state
    )
    masked = mask_units(model.params, groups, keep)
    key = jax.random.key(1)
    for mode in ({}, {"train": True, "key": key}):
        found, state = small.forward(small.params, small.model_state, x, **mode)
        expected, full = model.forward(masked, model.model_state, x, **mode)
        assert difference(found, expected) < _TOLERANCE * largest(expected)
        shapes = jax.tree.map(jnp.shape, small.model_state)
        assert jax.tree.map(jnp.shape, state) == shapes
        taken = small.take({"model_state": full})["model_state"]
        assert difference(state, taken) < _TOLERANCE


def test_optimizer_moments_masks_and_averages_are_taken_along() -> None:
    import optax

    case = CASES["lstm"]()
    groups = _groups(case)
    (group,) = groups.free
    small = compress.shrink(
        case.forward, case.params, {group.name: [0, 3]}, groups=groups
    )
    optimizer = optax.adam(1e-3)
    moments = small.take(optimizer.init(case.params))
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)  # noqa: E731
    assert shapes(moments) == shapes(optimizer.init(small.params))
    masks = small.take({"masks": {"wh": jnp.ones((8, 32), bool)}})
    assert masks["masks"]["wh"].shape == (2, 8)


def test_bad_keep_lists_are_refused_with_what_to_do() -> None:
    case = CASES["lstm"]()
    (group,) = _groups(case).free

    def refusal(keep: Any, **options: Any) -> str:
        with pytest.raises(ValueError, match=r".") as found:
            compress.shrink(case.forward, case.params, keep, *case.inputs, **options)
        return str(found.value)

    assert f"nearest: {group.name}" in refusal({group.name + "x": [0]})
    assert "model's output" in refusal({"head:1": [0]})
    assert "sorted, different" in refusal({group.name: [3, 1]})
    assert "from 0 to 7" in refusal({group.name: [1, 8]})
    assert "at least one" in refusal({group.name: np.zeros(0, int)})
    assert "integers [kept]" in refusal({group.name: [0.5]})
    assert "exact" in refusal({}, normalization="none")
