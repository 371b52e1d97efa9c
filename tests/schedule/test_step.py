"""The train step lets a transform change gradients and clear moments."""

import jax
import numpy as np

from compress import prune
from compress.config import parse_config
from compress.schedule import build_step, init_state
from tests import tiny


def test_connections_that_come_back_start_at_zero_without_momentum() -> None:
    task, config = tiny.task(), parse_config(tiny.CONFIG)
    model = task.build(jax.random.key(0))
    when = prune.rigl(0.5, steps=(0, 20), every=2, drop=0.5)
    transform = prune.connections(when)
    state = init_state(config, task, model, transform, jax.random.key(1))
    step = jax.jit(build_step(config, task, model, transform))
    batch, returned = {name: x[:16] for name, x in task.train.items()}, 0
    for _ in range(4):
        before = state.compression.memory.masks
        state, metrics = step(state, batch)
        assert metrics["sparsity"] == np.float32(0.5)
        for layer in ("first", "second"):
            path = f"{layer}/kernel"
            dead = ~np.asarray(before[path])
            returned += int(
                (dead & np.asarray(state.compression.memory.masks[path])).sum()
            )
            moments = [
                leaf
                for keys, leaf in jax.tree_util.tree_leaves_with_path(state.optimizer)
                if f"'{layer}'" in str(keys) and "kernel" in str(keys)
            ]
            for array in (state.params[layer]["kernel"], *moments):
                assert (np.asarray(array)[dead] == 0).all()
                assert (np.asarray(array)[~dead] != 0).any()
            assert moments
    assert returned > 0
