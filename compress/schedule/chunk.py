"""Many train steps in one call, without the host in between."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compress.adapters import Model
from compress.annotations import Array, Int
from compress.config import Config
from compress.data import Source, Stream, num_examples
from compress.schedule.placement import Placement, place
from compress.schedule.step import TrainState, build_step
from compress.sites import find_sites
from compress.task import Batch, Task, example_inputs
from compress.transform import Transform

# Batches of a stream that may wait for the device.
_IN_FLIGHT = 2


class Chunk(NamedTuple):
    """A compiled run of train steps.

    Attributes:
      run: `(state, data, num_steps) -> (state, metrics)`, with data from `open_data`.
        The state is donated; the metrics are arrays of which the first `num_steps`
        entries are valid.
      compilations: How often the train step was compiled so far.
      lower: `(state, data)` to the program of a call, or of a step where the host loops
        over them. Only shapes matter; of data that are read from files, a batch's.
    """

    run: Callable[[TrainState, Any, int], tuple[TrainState, dict[str, Any]]]
    compilations: Callable[[], int]
    lower: Callable[[TrainState, Batch], jax.stages.Lowered]


def build_chunk(
    config: Config,
    task: Task,
    model: Model,
    transform: Transform,
    placement: Placement | None = None,
) -> Chunk:
    """At most `config.log_every` train steps in one call.

    The examples of each epoch come in an order that is a function of the key and the
    epoch, so a run that goes on from a checkpoint sees the data it would have seen.

    Args:
      config: The run.
      task: Its task.
      model: In the shapes of this phase.
      transform: The chain of this phase.
      placement: Where the state that `run` is given lives; by default, where the
        config has it.
    """
    placement = placement or place(config, model.params)
    step = _placed_step(build_step(config, task, model, transform), placement)
    walk = walk_of(config, task)
    if isinstance(task.train, Source):
        return _stream_chunk(step)
    if prefers_host_loop(config, task, model):
        return _host_chunk(step, walk)
    return build_device_chunk(step, walk, config.log_every)


def open_data(
    config: Config, task: Task, state: TrainState, placement: Placement
) -> Batch | Stream:
    """The training examples as a chunk takes them, from the step of `state` on.

    Arrays are put on every device, where each step takes its rows; what is read from
    files is read ahead, in the same order as if it lay there.
    """
    if not isinstance(task.train, Source):
        return placement.replicate(dict(task.train))
    # Copied, since the state is donated; each process computes its order alone.
    walk, key = walk_of(config, task), jnp.copy(placement.whole(state.key))

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return np.asarray(walk.order(key, jnp.int32(epoch * walk.steps)))

    def indices_at(step: int) -> np.ndarray:
        epoch, index = divmod(step, walk.steps)
        return order(epoch)[index * walk.size : (index + 1) * walk.size]

    return Stream(task.train, indices_at, int(state.compression.step))


def walk_of(config: Config, task: Task) -> "Walk":
    """The walk of a run."""
    return Walk(num_examples(task.train), config.batch_size)


def _placed_step(step: Any, placement: Placement) -> Any:
    """The step with its batch split over the mesh, and its results where they belong.

    Mostly XLA leaves donated arrays where they were; what it moved would be a program
    of its own at the next call.
    """

    def placed(state: TrainState, batch: Batch) -> Any:
        state, metrics = step(state, placement.split(batch))
        return placement.keep(state), placement.gather(metrics)

    return placed


def prefers_host_loop(config: Config, task: Task, model: Model) -> bool:
    """XLA:CPU leaves the gradients of convolutions inside loops in slow layouts.

    A step of a three-layer CNN takes about eight times longer in a scan than alone
    (experiments/bench/RESULTS.md).
    """
    if jax.default_backend() != "cpu":
        return False
    inputs = example_inputs(task, config.batch_size)
    sites = find_sites(model.forward, model.params, model.model_state, *inputs)
    return any(site.op == "conv_general_dilated" for site in sites)


class Walk(NamedTuple):
    """How a run walks through the examples.

    Attributes:
      examples: How many there are.
      size: Of a batch; what is left over at the end of an epoch is not used.
    """

    examples: int
    size: int

    @property
    def steps(self) -> int:
        """Of one epoch."""
        return self.examples // self.size

    def order(self, key: Array, count: Int[Array, ""]) -> Int[Array, "examples"]:
        """The order of the examples in the epoch of step `count`."""
        epoch = count // self.steps
        shuffle_key = jax.random.fold_in(jax.random.fold_in(key, 0), epoch)
        return jax.random.permutation(shuffle_key, self.examples)

    def starts_epoch(self, count: Any) -> Any:
        """Whether step `count` is the first of its epoch."""
        return count % self.steps == 0

    def batch(self, data: Batch, order: Array, count: Array) -> Batch:
        """The batch of step `count`."""
        offset = count % self.steps
        rows = jax.lax.dynamic_slice(order, (offset * self.size,), (self.size,))
        return {name: array[rows] for name, array in data.items()}


def build_device_chunk(step: Any, walk: Any, length: int) -> Chunk:
    """A loop on the device; its count is traced: shorter chunks need no program."""

    traces: list[None] = []

    def chunk(state: TrainState, data: Batch, num_steps: Array) -> Any:
        traces.append(None)  # runs when traced: once per compilation

        def one(index: Array, carry: Any) -> Any:
            state, order, log = carry
            count = state.compression.step
            order = jax.lax.cond(
                walk.starts_epoch(count),
                lambda: walk.order(state.key, count),
                lambda: order,
            )
            state, metrics = step(state, walk.batch(data, order, count))
            log = {name: log[name].at[index].set(x) for name, x in metrics.items()}
            return state, order, log

        count = state.compression.step
        order = walk.order(state.key, count)
        shapes = jax.eval_shape(step, state, walk.batch(data, order, count))[1]
        log = {
            name: jnp.zeros((length, *s.shape), s.dtype) for name, s in shapes.items()
        }
        state, _, log = jax.lax.fori_loop(0, num_steps, one, (state, order, log))
        return state, log

    compiled = jax.jit(chunk, donate_argnums=0)
    return Chunk(
        lambda state, data, num_steps: compiled(state, data, jnp.int32(num_steps)),
        lambda: len(traces),
        lambda state, data: compiled.lower(state, data, jnp.int32(0)),
    )


def _host_chunk(step: Any, walk: Walk) -> Chunk:
    """Steps dispatched one after the other; the host does not wait for any of them."""

    traces: list[None] = []

    def one(state: TrainState, data: Batch, order: Array) -> Any:
        traces.append(None)
        return step(state, walk.batch(data, order, state.compression.step))

    compiled, order_at = jax.jit(one, donate_argnums=0), jax.jit(walk.order)

    def run(state: TrainState, data: Batch, num_steps: int) -> Any:
        first = int(state.compression.step)
        order = order_at(state.key, first)
        log: list[dict[str, Array]] = []
        for count in range(first, first + num_steps):
            if walk.starts_epoch(count):
                order = order_at(state.key, count)
            state, metrics = compiled(state, data, order)
            log.append(metrics)
        return state, jax.tree.map(lambda *values: jnp.stack(values), *log)

    def lower(state: TrainState, data: Batch) -> jax.stages.Lowered:
        order = jax.eval_shape(walk.order, state.key, state.compression.step)
        return compiled.lower(state, data, order)

    return Chunk(run, lambda: len(traces), lower)


def _stream_chunk(step: Any) -> Chunk:
    """Steps on batches that threads read ahead, while the device computes."""

    traces: list[None] = []

    def one(state: TrainState, batch: Batch) -> Any:
        traces.append(None)
        return step(state, batch)

    compiled = jax.jit(one, donate_argnums=0)

    def run(state: TrainState, stream: Stream, num_steps: int) -> Any:
        started, waited = time.monotonic(), stream.waited
        log: list[dict[str, Array]] = []
        for _ in range(num_steps):
            batch = stream.next(log[-1]["loss"] if log else None)
            state, metrics = compiled(state, batch)
            log.append(metrics)
            if len(log) > _IN_FLIGHT:
                jax.block_until_ready(log[-1 - _IN_FLIGHT]["loss"])
        stacked = jax.tree.map(lambda *values: jnp.stack(values), *log)
        jax.block_until_ready(stacked)
        share = (stream.waited - waited) / (time.monotonic() - started)
        return state, {**stacked, "input_wait": np.full(num_steps, share)}

    return Chunk(run, lambda: len(traces), compiled.lower)
