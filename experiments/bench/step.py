"""What masks and fake quantization cost in training: the demo's step, four ways.

Goal: masks and fake-quant together at most 1.3x the plain step. A teacher's forward
pass is work of its own and is not part of this.
"""

import pathlib
from typing import Any

import jax

from compress.config import Config, load_config, row_config
from compress.report import measure_latency
from compress.schedule import build_chunk, build_transform, init_state
from compress.task import load_task
from experiments.bench.results import save

_CONFIG = pathlib.Path(__file__).parents[2] / "configs/digits.yaml"
# In the last stage everything is on: masks are final, activations quantized.
_STEPS = 50


def chunk_of(config: Config) -> Any:
    """A call that trains `_STEPS` steps from the last stage on."""
    task = load_task(config.task, config.data)
    model = task.build(jax.random.key(0), **config.model)
    transform = build_transform(config)
    state = init_state(config, task, model, transform, jax.random.key(1))
    last = sum(stage.steps for stage in config.stages[:-1])
    compression = state.compression._replace(step=state.compression.step + last)
    holder = [jax.device_put(state._replace(compression=compression), jax.devices()[0])]
    data = jax.device_put(dict(task.train), jax.devices()[0])
    chunk = build_chunk(config, task, model, transform)

    def call() -> Any:
        state, metrics = chunk.run(holder[0], data, _STEPS)
        holder[0] = state
        return metrics

    return call


def main() -> None:
    """Measures and saves."""
    config = load_config(_CONFIG)
    assert config.compare is not None
    rows = {row.name: row for row in config.compare.rows}
    names = {"plain": "baseline + budget", "masks": "P", "fake-quant": "Q"}
    names["masks and fake-quant"] = "P+Q"
    calls = {
        case: chunk_of(row_config(config, rows[row])) for case, row in names.items()
    }
    result = measure_latency(calls, reference="plain", repetitions=40, warmup=2)
    save("step", f"The compressed train step ({_STEPS} steps of the demo)", result)


if __name__ == "__main__":
    main()
