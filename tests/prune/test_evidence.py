"""What is pruned after quantization has started: the weights as they are served."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import compress
from compress import chain, prune, quantize, ramp


def forward(params, x):
    return jax.nn.relu(x @ params["up"]) @ params["down"]


X = jnp.ones((4, 16))
NUM_KEPT = 40  # of 16 * 12 + 12 * 4 weights, 1 - 5 / 6


def make_params():
    """Channels of very different sizes, so that their grids differ, too."""
    up, down = jax.random.split(jax.random.key(0))
    sizes = jnp.logspace(-1, 1, 12)
    return {
        "up": jax.random.normal(up, (16, 12)) * sizes[None],
        "down": jax.random.normal(down, (12, 4)),
    }


def masks_of(start, score="magnitude", nest=None):
    """Pruned once, after update 2; quantized from step `start` on."""
    params = make_params()
    when = ramp(0.0, 5 / 6, steps=(2, 2))
    pruning = prune.connections(when, score=score, min_kept=0)
    transform = chain(
        nest(pruning) if nest else pruning,
        quantize.fake_quant(weights="int4", activations=None, steps=(start, None)),
    )
    state = compress.init(forward, transform, params, X)
    grads = jax.tree.map(lambda x: jnp.sin(7 * x), params)
    update = jax.jit(lambda s: compress.update(transform, s, params, grads, {}, params))
    memory = update(update(state)).memory[0]
    masks = (memory[0] if nest else memory).masks
    return {path: np.asarray(mask) for path, mask in masks.items()}


def on_grid(weight, largest=7):
    """The equation: the nearest of 15 values, spaced by channel."""
    scale = np.abs(weight).max(axis=0, keepdims=True) / largest
    return np.round(weight / scale) * scale


def best(seen, dense):
    """The largest `seen`; of equal ones, the largest `dense`."""
    seen, dense = (
        np.concatenate([x[p].ravel() for p in sorted(x)]) for x in (seen, dense)
    )
    order = np.lexsort((dense, np.round(seen, 5)))
    kept = np.zeros(len(order), bool)
    kept[order[-NUM_KEPT:]] = True
    return kept


def flat(masks):
    return np.concatenate([masks[path].ravel() for path in sorted(masks)])


@pytest.fixture(scope="module")
def dense():
    return {path: np.asarray(x, np.float64) for path, x in make_params().items()}


def test_after_quantization_the_weights_on_the_grid_are_scored(dense):
    size = {path: np.abs(x) for path, x in dense.items()}
    served = {path: np.abs(on_grid(x)) for path, x in dense.items()}
    found = flat(masks_of(start=0))
    np.testing.assert_array_equal(found, best(served, size))
    assert (found != best(size, size)).any()  # else this would show nothing


def test_before_quantization_the_dense_weights_are_scored(dense):
    size = {path: np.abs(x) for path, x in dense.items()}
    np.testing.assert_array_equal(flat(masks_of(start=100)), best(size, size))


def test_saliency_is_of_the_weights_on_the_grid_too(dense):
    grads = {path: np.sin(7 * x) for path, x in dense.items()}
    size = {path: np.abs(x * grads[path]) for path, x in dense.items()}
    served = {path: np.abs(on_grid(x) * grads[path]) for path, x in dense.items()}
    found = flat(masks_of(start=0, score="saliency"))
    np.testing.assert_array_equal(found, best(served, size))


def test_a_chain_in_a_chain_is_shown_the_grid_that_comes_after_it(dense):
    nested = masks_of(start=0, nest=chain)
    size = {path: np.abs(x) for path, x in dense.items()}
    served = {path: np.abs(on_grid(x)) for path, x in dense.items()}
    np.testing.assert_array_equal(flat(nested), best(served, size))
