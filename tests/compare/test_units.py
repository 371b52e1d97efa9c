"""The latency of a model without some of its units is that of its artifacts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import compress
from compress import prune, quantize
from compress.compare import latency_of

WIDTH = 2048


def forward(params: Any, x: Any) -> Any:
    h = jax.nn.relu(x @ params["up"])
    return jax.nn.relu(h @ params["mid"]) @ params["down"]


def with_state(params: Any, state: Any, x: Any, *, train: bool = False) -> Any:
    return forward(params, x) + state["shift"][None], state


@pytest.fixture(scope="module")
def model() -> Any:
    rng = np.random.default_rng(0)
    shapes = {"up": (64, WIDTH), "mid": (WIDTH, WIDTH), "down": (WIDTH, 8)}
    params = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    return jax.tree.map(jnp.asarray, params), jnp.ones((32, 64))


def test_an_artifact_of_a_quarter_of_the_width_is_measured_to_be_faster(
    model: Any,
) -> None:
    params, x = model
    groups = compress.find_groups(forward, params, x)
    measure = latency_of(forward, params, x, groups=groups, repetitions=9)
    scores = prune.unit_scores(groups, params).values
    choice = prune.choose_units(
        groups,
        scores,
        budget={"latency": 0.7},
        round_to=512,
        allocation="uniform",
        measure=measure,
    )
    # The products of the whole model take milliseconds, the call microseconds.
    assert choice.left["macs"] < 0.8
    assert all(ratio <= 0.7 for macs, ratio in choice.measured[-1:] if macs <= 0.3)
    assert choice.budget["macs"] in dict(choice.measured)


def test_model_state_and_a_grid_go_into_what_is_measured(model: Any) -> None:
    params, x = model
    small = {"up": params["up"][:, :64], "mid": params["mid"][:64, :64]}
    small["down"] = params["down"][:64]
    measure = latency_of(
        with_state,
        small,
        x,
        model_state={"shift": jnp.ones((8,))},
        transform=quantize.fake_quant(activations=None),
        repetitions=3,
    )
    ratio = measure({"up:1": np.arange(32)})
    assert 0 < ratio < 20  # of one more network of the same kind
