"""Connections are pruned as the choices say, and stay so until they are shipped."""

import itertools
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import compress
from compress import chain, prune, quantize, ramp


def forward(params: Any, x: Any) -> Any:
    return jax.nn.relu(x @ params["up"]) @ params["down"]


def make_params() -> dict[str, Any]:
    up, down = jax.random.split(jax.random.key(0))
    return {
        "up": jax.random.normal(up, (8, 12)),
        "down": jax.random.normal(down, (12, 4)),
    }


X = jax.random.normal(jax.random.key(1), (16, 8))

SCORES = ("magnitude", "saliency", "movement", "random")
PATTERNS: tuple[Any, ...] = ("unstructured", "2:4", {"block": [2, 4]}, "channel", "row")
SCOPES: tuple[Any, ...] = ("global", "normalized", "uniform", "erk", {"up": 0.5})
WHENS = (
    lambda: prune.gradual(ramp(0.0, 0.5, steps=(1, 4))),
    lambda: prune.periodic(0.5, steps=(1, 4), every=2),
    lambda: prune.straight_through(0.5, steps=(1, 4)),
    lambda: prune.cyclic(0.5, steps=(1, 4), sparse=1, dense=1),
    lambda: prune.rigl(0.5, steps=(1, 4), every=2),
    lambda: prune.sparse_evolution(0.5, steps=(1, 4), every=2),
)


def goes_together(pattern: Any, scope: Any, when: Any) -> bool:
    return pattern != "2:4" or (scope == "uniform" and when.regrow is None)


def test_any_choices_together_are_valid_or_refused_with_a_reason() -> None:
    """Traced, as a run does it before training; a refusal comes when it is built."""
    params, scores = make_params(), itertools.cycle(SCORES)
    for pattern, scope, build in itertools.product(PATTERNS, SCOPES, WHENS):
        when, settings = build(), {"pattern": pattern, "scope": scope}
        if not goes_together(pattern, scope, when):
            with pytest.raises(ValueError, match="has no meaning|too small"):
                prune.connections(when, score=next(scores), **settings)
            continue
        transform = prune.connections(when, score=next(scores), **settings)
        start = lambda p, t=transform: compress.init(forward, t, p, X)  # noqa: E731
        masks = jax.eval_shape(start, params).memory.masks
        assert jax.tree.map(jnp.shape, masks) == jax.tree.map(jnp.shape, params)


@pytest.mark.parametrize(
    ("pattern", "scope", "when", "score"),
    [
        ("2:4", "uniform", WHENS[2], "movement"),
        ({"block": [2, 4]}, "erk", WHENS[4], "saliency"),
        ("channel", "normalized", WHENS[3], "magnitude"),
        ("row", {"up": 0.25}, WHENS[1], "random"),
    ],
)
def test_a_step_of_mixed_choices_ends_at_its_sparsity(
    pattern: Any, scope: Any, when: Any, score: str
) -> None:
    transform = prune.connections(when(), score=score, pattern=pattern, scope=scope)
    params = make_params()
    state = compress.init(forward, transform, params, X)
    update = jax.jit(lambda s, p, g: compress.update(transform, s, p, g, None, p))
    for count in range(5):
        grads = {n: jnp.roll(p, count) for n, p in params.items()}
        state = update(state, params, grads)
    metrics = compress.metrics(transform, state)
    share = 0.25 if isinstance(scope, dict) else 0.5
    zeros = {n: float((~m).mean()) for n, m in state.memory.masks.items()}
    assert metrics["sparsity/up"] == pytest.approx(zeros["up"])
    if pattern in ("2:4", "row"):
        assert zeros == pytest.approx({"up": share, "down": 0.5})
    elif pattern == "channel":
        # Of 16 channels 8: they are of two sizes.
        units = [int((~m).all(0).sum()) for m in state.memory.masks.values()]
        assert sum(units) == 8
    else:
        assert metrics["sparsity"] == pytest.approx(0.5, abs=0.03)


def test_the_plan_says_what_will_happen_at_each_site() -> None:
    sites = compress.find_sites(forward, make_params(), X)

    def plan(*args: Any, **settings: Any) -> Any:
        transform = prune.connections(*args, **settings)
        assert transform.plan is not None
        return transform.plan(sites)

    assert plan(0.5) == dict.fromkeys(
        ("up", "down"), "pruned 50% of all sites together"
    )
    assert plan(pattern="2:4")["up"] == "pruned 50% of each, 2:4"
    assert plan(0.5, scope={"up": 0.25})["up"] == "pruned 25% of each"
    # 1 - 72 / (20 + 16) * 20 / 96, by the formula.
    erk = plan(0.5, scope="erk", score="random")
    assert erk["up"] == "pruned 58% of all (ERK), random"
    late = prune.rigl(0.5, steps=(1, 9), every=2)
    assert plan(late)["down"] == "pruned 50% of all sites together, prune.rigl"


def test_a_mask_chosen_in_training_survives_quantization_and_export(
    tmp_path: pathlib.Path,
) -> None:
    pruning = prune.connections(
        prune.straight_through(0.5, steps=(0, 3)), pattern="2:4"
    )
    transform = chain(pruning, quantize.fake_quant(steps=(4, None)))
    params, optimizer = make_params(), optax.sgd(0.05)
    state = compress.init(forward, transform, params, X)
    moments = optimizer.init(params)
    run = compress.observe(forward, transform)

    @jax.jit
    def step(params: Any, moments: Any, state: Any) -> Any:
        def loss(params: Any) -> Any:
            outputs, observed = run(params, state, X)
            return jnp.square(outputs - 1.0).mean(), observed

        grads, observed = jax.grad(loss, has_aux=True)(params)
        trained = compress.gradients(transform, state, grads)
        updates, moments = optimizer.update(trained, moments, params)
        new = optax.apply_updates(params, updates)
        return new, moments, compress.update(transform, state, new, grads, observed)

    for count in range(8):
        params, moments, state = step(params, moments, state)
        if count == 3:
            masks = state.memory[0].masks
    compress.check(transform, params, state)
    artifact = compress.export(
        tmp_path / "artifact",
        forward,
        params,
        transform,
        state,
        batches=[X],
        platforms=["cpu"],
        classifies=False,
    )
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask, state.memory[0].masks[name])
        (shipped,) = [
            array
            for key, array in artifact.weights.items()
            if key.startswith(name) and array.dtype == np.int8
        ]
        shipped = np.asarray(shipped).reshape(mask.shape)
        assert (shipped[~np.asarray(mask)] == 0).all()
        assert (shipped != 0).mean() > 0.45


@pytest.mark.slow
def test_masks_are_sharded_like_their_parameters() -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    flags += " --xla_force_host_platform_device_count=4"
    flags += " --xla_backend_optimization_level=0"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "error", "-m", "tests.prune.sharded_masks"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    checked = ["at once", "rigl", "wanda", "second_order", "ranges"]
    assert done.stdout.splitlines() == checked
