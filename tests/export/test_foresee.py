"""What is foreseen of an artifact from shapes is what is written."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.export.foresee import foreseen_sizes
from compress.export.manifest import program_files
from compress.export.pack import pack, packed_shapes
from compress.export.storage import file_bytes, write_arrays
from compress.quantize import fake_quant
from compress.transform import chain, init, parameters
from tests.export import models

NATIVE = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "float32"]
OTHERS = ["float16", "bfloat16", "int4", "uint4", "float8_e4m3fn", "float8_e5m2"]
ARRAYS = st.dictionaries(
    st.text('ab/:"é\\', min_size=1, max_size=9),
    st.tuples(
        st.sampled_from(NATIVE + OTHERS), st.lists(st.integers(0, 40), max_size=3)
    ),
    max_size=6,
)


@given(ARRAYS)
def test_the_size_of_a_file_is_known_from_shapes(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("file") / "weights.safetensors"
    zeros = {
        name: np.zeros(shape, jnp.dtype(kind)) for name, (kind, shape) in arrays.items()
    }
    write_arrays(path, zeros)
    shapes = {
        name: jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(kind))
        for name, (kind, shape) in arrays.items()
    }
    assert file_bytes(shapes) == path.stat().st_size


@pytest.mark.parametrize(
    ("model", "scheme"), [("mlp", "pruned"), ("conv", "dynamic"), ("mlp", "float")]
)
def test_the_sizes_of_an_artifact_are_known_before_it_is_trained(
    exported: Any, model: str, scheme: str
) -> None:
    manifest = exported(model, scheme).manifest
    forward, params_of, shape = models.MODELS[model]
    params = jax.eval_shape(params_of)  # no number is there to be looked at
    transform = chain() if scheme == "float" else models.transform_of(scheme)
    found = foreseen_sizes(
        forward,
        params,
        transform,
        jax.ShapeDtypeStruct((1, *shape), jnp.float32),
        step=0,
        model_state=None,
        platforms=("cpu",),
        static_batch=1,
        lowering="fastest",
    )
    files = manifest["files"]
    assert found.file == files["weights.safetensors"]["bytes"]
    assert found.dense == manifest["sizes"]["weights"]
    programs = sum(files[name]["bytes"] for name in program_files(manifest))
    # They hold the lines they were traced from, which depend on the caller.
    assert found.programs == pytest.approx(programs, rel=0.1)


def test_four_bits_and_a_models_state_are_packed_as_foreseen() -> None:
    def forward(params: Any, state: Any, x: Any) -> Any:
        return (x - state["mean"][None]) @ params["kernel"] + params["bias"][None]

    params = {"kernel": jnp.ones((6, 5)), "bias": jnp.zeros((5,))}
    state = {"mean": jnp.zeros((6,)), "count": jnp.int32(0)}
    transform = fake_quant(weights="int4", activations="int8_dynamic")
    started = init(forward, transform, params, state, jnp.ones((2, 6)))
    seen = parameters(transform, params, started)
    packed = pack(params, seen, 0, state)
    shapes = packed_shapes(transform, *map(_shapes, (params, started, state)))
    kinds = {name: (x.shape, x.dtype) for name, x in packed.weights.items()}
    assert kinds["kernel"][1] == jnp.int4
    assert {n: (x.shape, x.dtype) for n, x in shapes.weights.items()} == kinds
    assert shapes.paths == packed.paths
    assert shapes.dtypes == packed.dtypes
    assert shapes.state_paths == packed.state_paths


def _shapes(tree: Any) -> Any:
    return jax.eval_shape(lambda x: x, tree)
