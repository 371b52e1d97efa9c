"""Masks, Hessians and ranges of sharded arrays; run as a module, on four devices."""

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


def arrays(mesh: Any) -> tuple[Any, Any, Any]:
    """Parameters, the same ones sharded, and a batch of inputs."""
    a, b, c = jax.random.split(jax.random.key(0), 3)
    params = {"a": jax.random.normal(a, (8, 16)), "b": jax.random.normal(b, (16, 4))}
    placed = {
        name: jax.device_put(p, NamedSharding(mesh, SPECS[name]))
        for name, p in params.items()
    }
    return params, placed, jax.random.normal(c, (32, 8))


def check(name: str, transform: Any, mesh: Any) -> None:
    """The same masks as on one device, each sharded like its parameter."""
    params, placed, x = arrays(mesh)

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


def check_inputs(score: str, mesh: Any) -> None:
    """What is computed from inputs that are split over the devices.

    Hessians are sums over examples, so they differ in their last bits; no two scores
    are that close here, so the masks must be the same.
    """
    params, placed, x = arrays(mesh)
    batch = jax.device_put(x, NamedSharding(mesh, Spec("data")))
    one = prune.one_shot(forward, params, [(x,)], score=score)
    many = prune.one_shot(forward, placed, [(batch,)], score=score)
    for path, mask in one.masks.items():
        np.testing.assert_array_equal(mask, many.masks[path])
        close = {"rtol": 1e-4, "atol": 1e-5}  # of a factorization in float32
        np.testing.assert_allclose(one.params[path], many.params[path], **close)


def check_ranges(mesh: Any) -> None:
    """The largest of all devices: the same bits."""
    params, placed, x = arrays(mesh)
    batch = jax.device_put(x, NamedSharding(mesh, Spec("data")))
    transform, ranges = compress.quantize.fake_quant(), []
    for weights, inputs in ((params, x), (placed, batch)):
        state = compress.init(forward, transform, weights, inputs)
        state = compress.calibrate(forward, transform, weights, state, [inputs])
        ranges.append(state.memory.ranges)
    # Those of the second site are of products, added in another order.
    np.testing.assert_array_equal(ranges[0]["a"].absmax, ranges[1]["a"].absmax)
    np.testing.assert_allclose(ranges[0]["b"].absmax, ranges[1]["b"].absmax, rtol=1e-6)


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
    for score in ("wanda", "second_order"):
        check_inputs(score, mesh)
        print(score)
    check_ranges(mesh)
    print("ranges")


if __name__ == "__main__":
    main()
