"""Many seeds in one program: the same branches, one teacher, one step counter."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import primitives

import compress
from compress.config import parse_config
from compress.data import Source
from compress.schedule import (
    Whose,
    build_chunk,
    build_links,
    build_many_chunk,
    init_state,
    split_phases,
    together,
    why_apart,
)
from compress.schedule.techniques import Here
from compress.transform import chain
from experiments.tasks import digits
from tests import tiny

CONFIG = parse_config(tiny.CONFIG)
SEEDS = (0, 1, 2)


def forward(params: Any, x: Any) -> Any:
    return x @ params


def prepared() -> Any:
    """Config, chunks and states of three seeds."""
    task = tiny.task()
    teacher = (forward, jnp.ones((5, 3)))
    links = build_links(CONFIG, teacher, Here(split_phases(CONFIG)[0]))
    transform = chain(*(t for several in links.values() for t in several))
    models = [task.build(jax.random.key(seed)) for seed in SEEDS]
    states = [
        init_state(CONFIG, task, model, transform, jax.random.key(seed))
        for seed, model in zip(SEEDS, models)
    ]
    how = together(links)
    one = build_chunk(CONFIG, task, models[0], transform)
    whose = Whose([CONFIG], jnp.zeros(len(SEEDS), jnp.int32))
    many = build_many_chunk(whose, task, models[0], lambda whose: transform, how)
    return how, states, dict(task.train), one, many


def conds(jaxpr: Any) -> int:
    """How many branches a program has, at any depth."""
    found = 0
    for equation in jaxpr.eqns:
        found += equation.primitive is primitives.cond_p
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                found += conds(inner) if hasattr(inner, "eqns") else 0
    return found


def test_branches_on_the_step_stay_branches() -> None:
    how, states, data, one, many = prepared()
    alone = jax.make_jaxpr(one.run, static_argnums=2)(states[0], data, 7)
    together_ = jax.make_jaxpr(many.run, static_argnums=2)(how.stack(states), data, 7)
    # An epoch starts, a mask is chosen, the teacher is asked.
    assert conds(alone.jaxpr) == conds(together_.jaxpr) >= 3


def test_a_state_of_several_seeds_holds_step_and_teacher_once() -> None:
    how, states, *_ = prepared()
    state = how.stack(states)
    assert state.compression.step.shape == ()
    assert state.params["first"]["kernel"].shape == (3, 5, 8)
    shapes = [x.shape for x in jax.tree.leaves(state.compression.memory)]
    assert (5, 3) in shapes  # the teacher's
    for index, own in enumerate(states):
        picked = how.pick(state, index)
        assert jax.tree.structure(picked) == jax.tree.structure(own)
        for a, b in zip(jax.tree.leaves(picked), jax.tree.leaves(own)):
            assert bool(jnp.array_equal(a, b))


def test_seeds_of_one_function_may_be_trained_together() -> None:
    models = [tiny.build(jax.random.key(seed)) for seed in SEEDS]
    assert why_apart(CONFIG, tiny.task(), models) is None


def test_what_seeds_decide_between_phases_keeps_them_apart() -> None:
    stages = [{"steps": 4, "learning_rate": 0.1, "shrink": {"budget": {"macs": 0.5}}}]
    config = parse_config({**tiny.CONFIG, "teacher": None, "stages": stages})
    models = [tiny.build(jax.random.key(seed)) for seed in SEEDS]
    assert "between its phases" in str(why_apart(config, tiny.task(), models))


def test_convolutions_on_a_cpu_keep_seeds_apart() -> None:
    config = parse_config({**tiny.CONFIG, "teacher": None, "stages": [
        {"steps": 4, "learning_rate": 0.1}]})  # fmt: skip
    models = [digits.build(jax.random.key(s), "cnn", 2) for s in (0, 1)]
    assert "convolutions" in str(why_apart(config, digits.task(), models))


def test_examples_read_from_files_keep_seeds_apart() -> None:
    task = tiny.task()
    read = lambda index: {name: x[index] for name, x in task.train.items()}  # noqa: E731
    files = task._replace(train=Source(read, 70, "tiny"))
    models = [tiny.build(jax.random.key(seed)) for seed in SEEDS]
    assert "from files" in str(why_apart(CONFIG, files, models))


@pytest.mark.parametrize("scale", [1.0, None])
def test_a_function_that_differs_between_seeds_keeps_them_apart(scale: Any) -> None:
    def build(seed: int) -> compress.Model:
        model = tiny.build(jax.random.key(seed))
        factor = scale or np.float32(seed + 1)
        noise = np.full((3,), factor, np.float32)

        def forward(*args: Any, **settings: Any) -> Any:
            scores, state = model.forward(*args, **settings)
            return scores + noise[None], state

        return model._replace(forward=forward)

    reason = why_apart(CONFIG, tiny.task(), [build(seed) for seed in SEEDS])
    assert reason is None if scale else "closes over" in str(reason)
