"""Every construct is served as the integers it was trained with.

Constructs of a family share one model and one artifact: compiled one by one they would
take minutes.
"""

import pathlib
from typing import Any

import jax
import pytest

import compress
from compress.cli.inspecting import inspect_artifact
from tests.constructs import table
from tests.constructs.construct import Construct, fill, inputs_of, relative_error

# Those that are lowered otherwise than a product with a plain weight.
FAMILIES = {
    "products": [
        "w @ x",
        "-(w.T / 2)",
        "w * gain",
        "strided and reversed",
        "picked at run time",
        "split QKV",
        "einsum, merged heads",
        "einsum, batch of weights left",
        "tied embedding",
        "used there and back",
    ],
    "convolutions": [
        "conv 1-D",
        "conv strided",
        "conv of a dilated input",
        "conv grouped",
        "conv depthwise",
        "conv NCHW",
        "conv transposed, kernel too",
    ],
    "loops": ["LSTM", "scan over rematerialized layers", "scan of scans"],
    "while and branches": ["while", "cond and switch"],
    "the rest": [
        "ragged_dot, experts",
        "custom_vjp around a site",
        "inner jit that donates",
        "nested vmap",
        "bf16",
        "bf16 products of f32 weights",
        "batch statistics",
        "closed-over weight",
        "LoRA",
    ],
}
ROWS = 5


def together(constructs: dict[str, Construct]) -> Any:
    """One forward pass of all, and its parameters, state and inputs."""
    state = {n: c.state for n, c in constructs.items() if c.state is not None}

    def forward(params: Any, state: Any, *inputs: Any) -> Any:
        outputs, rest = {}, list(inputs)
        for name, c in constructs.items():
            own, rest = rest[: len(c.inputs)], rest[len(c.inputs) :]
            first = (state[name],) if name in state else ()
            outputs[name] = c.forward(params[name], *first, *own)
        return outputs

    params = {n: fill(c.params, c.dtype, 0) for n, c in constructs.items()}
    state = {n: fill(s, constructs[n].input_dtype, 2) for n, s in state.items()}
    rows = [x[:ROWS] for c in constructs.values() for x in inputs_of(c, 1)]
    return forward, params, state, tuple(rows)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_an_artifact_computes_what_was_trained(
    family: str, tmp_path: pathlib.Path
) -> None:
    constructs = {name: table.CONSTRUCTS[name] for name in FAMILIES[family]}
    (activations,) = {c.activations for c in constructs.values()}
    forward, params, model_state, inputs = together(constructs)
    transform = compress.quantize.fake_quant(activations=activations)
    state = compress.init(forward, transform, params, model_state, *inputs)
    if activations == "int8":
        batches = [(model_state, *inputs)]
        state = compress.calibrate(forward, transform, params, state, batches)
    artifact = compress.export(
        tmp_path / "artifact",
        forward,
        params,
        transform,
        state,
        batches=[inputs],
        model_state=model_state,
        platforms=("cpu",),
    )
    applied = jax.jit(compress.apply(forward, transform))
    trained = applied(params, state, model_state, *inputs)
    served = artifact(*inputs)
    for name in constructs:
        # Equal integers; between sites XLA may fuse, and round, otherwise.
        assert relative_error(served[name], trained[name]) < 1e-3, name
    shown = inspect_artifact(tmp_path / "artifact")
    for c in constructs.values():
        for start in c.others.values():
            # What a site is computed from is named by its path in this model.
            assert start.partition(" from ")[0] in shown
    bits = {s["name"]: s["weight_bits"] for s in artifact.manifest["sites"]}
    assert {
        f"{name}/{site}": 8 for name, c in constructs.items() for site in c.sites
    }.items() <= bits.items()
