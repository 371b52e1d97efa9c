"""Several sparsities in one program: each mask is the one it would be alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import compress
from compress import prune
from compress.prune.patterns import as_pattern
from compress.prune.ranking import Ranking, parts_of
from compress.prune.scopes import as_scope, with_shares
from compress.prune.weights import weight_of
from compress.transform import State, ramp

# 0.7 * 45 is just below 31.5, and just above it in float32.
PARAMS = {
    "a": jax.random.normal(jax.random.key(0), (9, 5)),
    "b": jax.random.normal(jax.random.key(1), (5, 7)),
}
X = jnp.ones((2, 9))
SPARSITIES = (0.7, 0.0, 0.5, 0.31)


def forward(params: Any, x: Any) -> Any:
    return x @ params["a"] @ params["b"]


def rising(sparsity: float) -> prune.When:
    first, second = (
        ramp(0.0, sparsity / 2, (1, 3)),
        ramp(sparsity / 2, sparsity, (3, 7)),
    )
    return prune.gradual([first, second], every=1)


def often(sparsity: float) -> prune.When:
    return prune.periodic(sparsity, steps=(2, 6), every=2)


def exchanged(sparsity: float) -> prune.When:
    return prune.sparse_evolution(sparsity, steps=(2, 6), every=2)


def masks(when: prune.When, **settings: Any) -> Any:
    """All masks over eight steps."""
    transform = prune.connections(when, **settings)
    memory = transform.init(PARAMS, compress.find_sites(forward, PARAMS, X))
    begin = State(jnp.int32(0), memory)

    def step(state: Any, _: None) -> Any:
        state = compress.update(transform, state, PARAMS)
        return state, state.memory.masks

    return jax.lax.scan(step, begin, None, length=8)[1]


def ranking_of(when: prune.When, scope: Any, pattern: str) -> Ranking:
    user, sites = "a test", compress.find_sites(forward, PARAMS, X)
    by_path, chosen = sites.by_path(), as_scope(scope, user)
    found = as_pattern(pattern)
    parts = parts_of(found, [weight_of(by_path[path]) for path in PARAMS], user)
    parts = with_shares(chosen, parts, sites, user)
    return Ranking(found, chosen, when, 1, user, parts)


@pytest.mark.parametrize(
    ("scope", "pattern"),
    [
        ("uniform", "unstructured"),
        ("global", "unstructured"),
        ("erk", "unstructured"),
        ({"a": 0.4}, "channel"),
    ],
)
def test_counts_of_several_sparsities_are_those_of_each(
    scope: Any, pattern: str
) -> None:
    whens = [rising(sparsity) for sparsity in SPARSITIES]
    steps = jnp.arange(9)

    def counts(when: prune.When) -> Any:
        return jax.vmap(ranking_of(when, scope, pattern).counts)(steps)

    together = jax.vmap(lambda i: counts(prune.one_of(whens, i)))(jnp.arange(4))
    for index, when in enumerate(whens):
        for path, own in counts(when).items():
            np.testing.assert_array_equal(together[path][index], own)
    if scope == "uniform":
        assert together["a"][0, -1] == 31  # what Python rounds 0.7 * 45 to


@pytest.mark.slow
@pytest.mark.parametrize("course", [rising, often, exchanged])
def test_masks_of_several_sparsities_are_those_of_each(course: Any) -> None:
    whens = [course(sparsity) for sparsity in SPARSITIES]
    together = jax.jit(
        jax.vmap(lambda i: masks(prune.one_of(whens, i), scope="uniform"))
    )(jnp.arange(len(whens)))
    for index, when in enumerate(whens):
        alone = jax.jit(lambda when=when: masks(when, scope="uniform"))()
        for path, mask in alone.items():
            np.testing.assert_array_equal(together[path][index], mask)


def test_time_courses_of_other_steps_are_refused() -> None:
    several = [prune.periodic(0.5, steps=(2, end), every=2) for end in (6, 8)]
    with pytest.raises(ValueError, match="differ in more than their sparsity"):
        prune.one_of(several, jnp.int32(0))
