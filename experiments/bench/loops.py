"""Convolutions inside a loop on XLA:CPU: why the train loop may stay on the host.

One gradient step of the digits' CNN, alone and in a scan.
"""

from typing import Any

import jax
import jax.numpy as jnp

from compress.report import measure_latency
from experiments.bench.results import save
from experiments.tasks import digits

_STEPS = 5


def main() -> None:
    """Measures and saves."""
    task = digits.task()
    batch = {name: jnp.asarray(x[:128]) for name, x in task.train.items()}
    calls = {}
    for kind, width in (("mlp", 128), ("cnn", 16)):
        model = digits.build(jax.random.key(0), kind, width)

        def step(params: Any, model: Any = model) -> Any:
            def loss(params: Any) -> Any:
                logits = model.forward(params, model.model_state, batch["x"])[0]
                return digits.cross_entropy(logits, batch)

            return jax.tree.map(
                lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params)
            )

        alone = jax.jit(step)
        scanned = jax.jit(
            lambda p, step=step: jax.lax.scan(
                lambda p, _: (step(p), None), p, length=_STEPS
            )[0]
        )

        def steps(params: Any = model.params, alone: Any = alone) -> Any:
            for _ in range(_STEPS):
                params = alone(params)
            return params

        calls[f"{kind}, {_STEPS} calls"] = steps
        calls[f"{kind}, scan of {_STEPS}"] = lambda s=scanned, p=model.params: s(p)
    result = measure_latency(calls, reference="mlp, 5 calls", repetitions=20, warmup=2)
    save("loops", "Gradient steps in a loop on the device and from the host", result)


if __name__ == "__main__":
    main()
