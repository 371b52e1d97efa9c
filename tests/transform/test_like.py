"""What belongs to a parameter is found by its path and shape, wherever it is."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from compress.transform.like import map_like

PARAMS = {"a": {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}, "w": jnp.ones((2, 3))}


def found(tree: Any, params: Any = PARAMS) -> list[str]:
    """The parameter that each leaf of a tree belongs to."""
    named = map_like(tree, params, lambda path, leaf: f"is {path}")
    return [leaf if isinstance(leaf, str) else "" for leaf in jax.tree.leaves(named)]


EVERY = ["is a/b", "is a/w", "is w"]


def test_the_parameters_themselves_are_found() -> None:
    assert found(PARAMS) == EVERY


def test_moments_are_found_in_the_states_of_optimizers() -> None:
    state = optax.chain(optax.clip(1.0), optax.adam(0.1)).init(PARAMS)
    assert found(state) == ["", *EVERY, *EVERY]
    accumulating = optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 2).init(PARAMS)
    assert found(accumulating).count("is a/w") == 2


def test_moments_with_leaves_left_out_are_found() -> None:
    mask = {"a": {"w": True, "b": False}, "w": True}
    assert found(optax.masked(optax.trace(0.9), mask).init(PARAMS)) == [
        "is a/w",
        "is w",
    ]


def test_what_has_another_shape_belongs_to_none() -> None:
    assert found({"w": jnp.ones((3, 2)), "rows": {"w": jnp.ones(2)}}) == ["", ""]


def test_a_single_array_is_found_by_its_shape() -> None:
    assert found((jnp.ones(3), jnp.ones(2)), jnp.ones(3)) == ["is ", ""]
