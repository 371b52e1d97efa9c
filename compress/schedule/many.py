"""Many runs in one program: the train step under `vmap`.

A schedule is a pure function of its state and its numbers, so runs of several seeds and
settings are one more axis of both. The step is not: all runs are in the same one, and
what happens at some steps only (a mask is chosen, an epoch starts, the teacher is
asked) stays a branch that is not taken.
"""

from collections.abc import Callable, Mapping, Sequence
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
from compress.schedule.numbers import Whose
from compress.schedule.phases import split_phases
from compress.schedule.step import TrainState, build_step
from compress.task import Batch, Task, example_inputs
from compress.transform import State, Transform

# Techniques whose memory is the same for every run: the teacher's parameters.
_SHARED = ("distill",)


class Together(NamedTuple):
    """How the states of several runs are one.

    Attributes:
      axes: A prefix of the state: 0 where each run has its own, None where all share.
    """

    axes: TrainState

    def stack(self, states: Sequence[TrainState]) -> TrainState:
        """One state with a leading axis of runs."""
        return self._each(lambda *xs: jnp.stack(xs), lambda first, *_: first, *states)

    def pick(self, state: TrainState, index: Any) -> TrainState:
        """The state of one run, counted from 0."""
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
    """How the states of runs that differ in seed and numbers alone are put together.

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
    """The walks of several runs through the same examples."""

    one: Walk

    def order(self, keys: Array, count: Any) -> Int[Array, "runs examples"]:
        """The order of each run's examples in the epoch of step `count`."""
        return jax.vmap(self.one.order, (0, None))(keys, count)

    def starts_epoch(self, count: Any) -> Any:
        """Whether step `count` is the first of its epoch."""
        return self.one.starts_epoch(count)

    def batch(self, data: Batch, orders: Array, count: Array) -> Batch:
        """Each run's batch of step `count`; the data itself are there once."""
        return jax.vmap(self.one.batch, (None, 0, None))(data, orders, count)


def build_many_chunk(
    whose: Whose,
    task: Task,
    model: Model,
    chain_of: Callable[[Whose], Transform],
    how: Together,
) -> Chunk:
    """`build_chunk` for a state of several runs; its metrics have their axis last.

    Each run is initialized, ordered and augmented as it would be alone.

    Args:
      whose: The configs, and of which of them each run of the state is.
      task: Of all.
      model: In the shapes of all.
      chain_of: The chain with the numbers of one run.
      how: The state is put together.
    """
    config, index = whose.configs[0], whose.index

    def step(state: TrainState, batch: Batch, index: Any) -> Any:
        own = whose._replace(index=index)
        return build_step(config, task, model, chain_of(own), own)(state, batch)

    axes = (how.axes, 0)
    steps = jax.vmap(step, in_axes=(*axes, 0), out_axes=axes)
    return build_device_chunk(
        lambda state, batch: steps(state, batch, index),
        _Walks(walk_of(config, task)),
        config.log_every,
    )


def why_apart(config: Config, task: Task, models: Sequence[Model]) -> str | None:
    """Why runs cannot share one program, or should not; None if they may.

    Args:
      config: Of one run; others differ in seed and numbers alone.
      task: Its task.
      models: As two seeds build them, or the only one.
    """
    if config.mesh is not None:
        return "its mesh splits each run over the devices"
    if len(split_phases(config)) > 1:
        return (
            "what is removed, or pruned from inputs, between its phases is decided "
            "run by run"
        )
    if isinstance(task.train, Source):
        return "its examples are read from files, in an order of its own for each run"
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
