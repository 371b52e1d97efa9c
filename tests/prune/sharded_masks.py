"""Masks of sharded parameters; run as a module, on four devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as Spec

import compress
from compress import prune

SPECS = {"a": Spec(None, "model"), "b": Spec("model", "data")}


def forward(params: Any, x: Any) -> Any:
    return jnp.tanh(x @ params["a"]) @ params["b"]


def check(name: str, transform: Any, mesh: Any) -> None:
    """The same masks as on one device, each sharded like its parameter."""
    a, b, c = jax.random.split(jax.random.key(0), 3)
    params = {"a": jax.random.normal(a, (8, 16)), "b": jax.random.normal(b, (16, 4))}
    x = jax.random.normal(c, (4, 8))
    placed = {
        name: jax.device_put(p, NamedSharding(mesh, SPECS[name]))
        for name, p in params.items()
    }

    @jax.jit
    def update(state: Any, params: Any) -> Any:
        return compress.update(transform, state, params, params, None, params)

    states: dict[str, list[Any]] = {}
    for kind, weights in {"one": params, "many": placed}.items():
        state = compress.init(forward, transform, weights, x)
        states[kind] = [state]
        for _ in range(3 if name != "at once" else 0):
            state = update(state, weights)
            states[kind].append(state)
    for one, many in zip(states["one"], states["many"], strict=True):
        for path, mask in many.memory.masks.items():
            np.testing.assert_array_equal(one.memory.masks[path], mask)
            expected = NamedSharding(mesh, SPECS[path])
            assert mask.sharding.is_equivalent_to(expected, 2), (name, mask.sharding)


def main() -> None:
    """Every kind of choice that ranks differently."""
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    cases = {
        "at once": prune.connections(0.5),
        "rigl": prune.connections(prune.rigl(0.5, steps=(0, 9), every=2), scope="erk"),
    }
    for name, transform in cases.items():
        check(name, transform, mesh)
        print(name)


if __name__ == "__main__":
    main()
