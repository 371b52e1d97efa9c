"""Many seeds in one program: the train step under `vmap`.

A schedule is a pure function of its state, so seeds are one more axis of it. The step
is not: all seeds are in the same one, and what happens at some steps only (a mask is
chosen, an epoch starts, the teacher is asked) stays a branch that is not taken.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compress.adapters import Model
from compress.annotations import Array, Int, PyTree
from compress.config import Config
from compress.data import Source
from compress.schedule.chunk import (
    Chunk,
    Walk,
    build_device_chunk,
    prefers_host_loop,
    walk_of,
)
from compress.schedule.phases import split_phases
from compress.schedule.step import TrainState, build_step
from compress.task import Batch, Task, example_inputs
from compress.transform import State, Transform

# Techniques whose memory is the same for every seed: the teacher's parameters.
_SHARED = ("distill",)


class Together(NamedTuple):
    """How the states of several seeds are one.

    Attributes:
      axes: A prefix of the state: 0 where each seed has its own, None where all share.
    """

    axes: TrainState

    def stack(self, states: Sequence[TrainState]) -> TrainState:
        """One state with a leading axis of seeds."""
        return self._each(lambda *xs: jnp.stack(xs), lambda first, *_: first, *states)

    def pick(self, state: TrainState, index: Any) -> TrainState:
        """The state of one seed, counted from 0."""
        return self._each(lambda x: _at(x, index), lambda x: x, state)

    def _each(self, own: Any, shared: Any, *states: TrainState) -> TrainState:
        def act(axis: int | None, *trees: PyTree) -> PyTree:
            return jax.tree.map(shared if axis is None else own, *trees)

        return jax.tree.map(act, self.axes, *states, is_leaf=lambda x: x is None)


def _at(x: Array, index: Any) -> Array:
    if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return x[index]
    # By its data: a key that is copied is not one that is drawn from.
    data = jax.random.key_data(x)[index]
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))


def together(links: Mapping[str, Sequence[Transform]]) -> Together:
    """How the states of runs that differ in their seed alone are put together.

    Args:
      links: The transforms of the chain, by technique; see `build_links`.
    """
    memory = tuple(
        None if name in _SHARED else 0
        for name, several in links.items()
        for _ in several
    )
    return Together(TrainState(0, 0, 0, State(None, memory), 0))  # ty: ignore


class _Walks(NamedTuple):
    """The walks of several seeds through the same examples."""

    one: Walk

    def order(self, keys: Array, count: Any) -> Int[Array, "seeds examples"]:
        """The order of each seed's examples in the epoch of step `count`."""
        return jax.vmap(self.one.order, (0, None))(keys, count)

    def starts_epoch(self, count: Any) -> Any:
        """Whether step `count` is the first of its epoch."""
        return self.one.starts_epoch(count)

    def batch(self, data: Batch, orders: Array, count: Array) -> Batch:
        """Each seed's batch of step `count`; the data itself are there once."""
        return jax.vmap(self.one.batch, (None, 0, None))(data, orders, count)


def build_many_chunk(
    config: Config, task: Task, model: Model, transform: Transform, how: Together
) -> Chunk:
    """`build_chunk` for a state of several seeds; its metrics have their axis last.

    Each seed is initialized, ordered and augmented as it would be alone.
    """
    step = build_step(config, task, model, transform)
    steps = jax.vmap(step, in_axes=(how.axes, 0), out_axes=(how.axes, 0))
    return build_device_chunk(steps, _Walks(walk_of(config, task)), config.log_every)


def why_apart(config: Config, task: Task, models: Sequence[Model]) -> str | None:
    """Why seeds cannot share one program, or should not; None if they may.

    Args:
      config: Of one run.
      task: Its task.
      models: As two seeds build them.
    """
    if config.mesh is not None:
        return "its mesh splits each run over the devices"
    if len(split_phases(config)) > 1:
        return (
            "what is removed, or pruned from inputs, between its phases is decided "
            "seed by seed"
        )
    if isinstance(task.train, Source):
        return "its examples are read from files, in an order of its own for each seed"
    if prefers_host_loop(config, task, models[0]):
        return "its convolutions are several times slower inside a loop on a CPU"
    if not _same_function(models, example_inputs(task, config.batch_size)):
        return (
            "its forward function closes over something that depends on the seed; "
            "make that a parameter or model state"
        )
    return None


def _same_function(models: Sequence[Model], inputs: Sequence[Any]) -> bool:
    """Whether models differ in their arrays alone."""
    traced = [
        jax.make_jaxpr(model.forward)(model.params, model.model_state, *inputs)
        for model in models
    ]
    first, *others = [(str(t.jaxpr), [np.asarray(c) for c in t.consts]) for t in traced]
    return all(
        text == first[0]
        and len(consts) == len(first[1])
        and all(np.array_equal(a, b) for a, b in zip(consts, first[1]))
        for text, consts in others
    )
