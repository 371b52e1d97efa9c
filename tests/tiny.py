"""A task so small that a run takes seconds: two blobs, a two-layer network."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import compress


def build(key: jax.Array, width: int = 8, classes: int = 3) -> compress.Model:
    """A network with a dropout that needs its key and a state that counts calls."""
    first, second = jax.random.split(key)
    params = {
        "first": {
            "kernel": jax.random.normal(first, (5, width)) * 0.5,
            "bias": jnp.zeros((width,)),
        },
        "second": {
            "kernel": jax.random.normal(second, (width, classes)) * 0.5,
            "bias": jnp.zeros((classes,)),
        },
    }

    def forward(
        params: Any, state: Any, x: Any, *, train: bool = False, key: Any = None
    ) -> Any:
        hidden = jax.nn.relu(
            x @ params["first"]["kernel"] + params["first"]["bias"][None]
        )
        if train:
            kept = jax.random.bernoulli(key, 0.9, hidden.shape)
            hidden = jnp.where(kept, hidden / 0.9, 0.0)
            state = {"calls": state["calls"] + 1}
        logits = hidden @ params["second"]["kernel"] + params["second"]["bias"][None]
        return logits, state

    return compress.Model(forward, params, {"calls": jnp.zeros((), jnp.int32)})


def loss(logits: jax.Array, batch: Any) -> jax.Array:
    """Mean cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


def task(examples: int = 70) -> compress.Task:
    """Three blobs in five dimensions, `examples` of them to train on."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(3, 5)) * 2

    def drawn(count: int) -> dict[str, np.ndarray]:
        y = rng.integers(0, 3, count).astype(np.int32)
        x = (centers[y] + rng.normal(size=(count, 5))).astype(np.float32)
        return {"x": x, "y": y}

    return compress.Task(
        build=build,
        train=drawn(examples),
        test=drawn(40),
        loss=loss,
        correct=lambda logits, batch: jnp.argmax(logits, -1) == batch["y"],
        augment=lambda key, batch: {
            **batch,
            "x": batch["x"] + 0.01 * jax.random.normal(key, batch["x"].shape),
        },
    )


def sized(examples: int) -> compress.Task:
    """The task, for configs that must say how many examples there are."""
    return task(examples)


def nan_task() -> compress.Task:
    """Its loss is NaN from the first step on."""
    return task()._replace(loss=lambda logits, batch: loss(logits, batch) * jnp.nan)


CONFIG = {
    "name": "tiny",
    "task": "tests.tiny:task",
    "model": {"width": 8},
    "teacher": {"model": {"width": 16}, "steps": 20, "learning_rate": 0.01},
    "batch_size": 16,
    "log_every": 7,
    "checkpoint_every": 25,
    "stages": [
        {"name": "a", "steps": 15, "learning_rate": 0.01},
        {
            "name": "b",
            "steps": 20,
            "learning_rate": 0.005,
            "prune": {"sparsity": 0.5, "every": 4},
            "distill": {"temperature": 2},
        },
        {"name": "c", "steps": 15, "learning_rate": 0.001, "quantize": {}},
    ],
}
