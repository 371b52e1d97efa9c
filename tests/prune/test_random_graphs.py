"""Soundness under fuzzing: what is called free can be removed."""

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import compress
from compress.prune import mask_units
from tests.prune.proofs import (
    difference,
    largest,
    random_keep,
    readers_zero_and_garbage_elsewhere,
)
from tests.prune.random_graphs import KINDS, Network

_numbers = st.integers(0, 11)
_steps = st.lists(
    st.tuples(st.sampled_from(KINDS), _numbers, _numbers, _numbers),
    min_size=2,
    max_size=9,
)


@given(_steps)
def test_units_of_free_groups_can_be_removed_from_random_networks(
    steps: list[tuple[str, int, int, int]],
) -> None:
    network = Network(steps)
    params, x = network.params, network.input
    groups = compress.find_groups(network.forward, params, x)
    keep = random_keep(groups)
    for group in groups:
        assert group.frozen is None or group.frozen.strip()
    if not keep:
        return
    small = compress.shrink(network.forward, params, keep, groups=groups)
    found = jax.jit(small.forward)(small.params, x)
    forward = jax.jit(network.forward)
    masked = forward(mask_units(params, groups, keep), x)
    unread = forward(readers_zero_and_garbage_elsewhere(params, groups, keep), x)
    # Fuzzed networks are chaotic: cumulative products of sums lose some digits.
    tolerance = 1e-4 * max(1.0, largest(masked))
    assert difference(found, masked) < tolerance
    assert difference(found, unread) < tolerance
    counted = sum(np.size(leaf) for leaf in jax.tree.leaves(small.params))
    assert counted == groups.parameters({name: len(k) for name, k in keep.items()})
