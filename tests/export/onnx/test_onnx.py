"""An ONNX file computes, in the integers of the artifact, what was trained."""

import functools
import json
import pathlib
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import compress
from tests.export import models
from tests.export.onnx import networks


@functools.cache
def network(name: str) -> tuple[Any, Any, Any]:
    """Forward, parameters, and a function that makes inputs."""
    if name in models.MODELS:
        forward, params, _ = models.MODELS[name]
        return forward, params(), functools.partial(models.inputs_of, name)
    if name == "encoder":
        return networks.encoder, networks.encoder_params(), networks.tokens
    if name == "cnn":
        return networks.cnn, networks.cnn_params(), networks.images
    if name in networks.other_networks():
        return networks.other_networks()[name]
    model = {"nnx": networks.nnx_model, "linen": networks.linen_model}[name]()
    return model.predictor(), model.params, networks.images


@functools.cache
def compressed(name: str, scheme: str) -> tuple[Any, Any, Any, Any, list[Any]]:
    forward, params, data = network(name)
    transform = models.transform_of(scheme)
    batches = [data(8, seed) for seed in range(2)]
    state = compress.init(forward, transform, params, batches[0])
    if scheme == "pruned":
        state = compress.update(transform, state, params)
    if scheme in ("static", "pruned"):
        state = compress.calibrate(forward, transform, params, state, batches)
    return forward, params, transform, state, batches


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`(name, scheme) -> path`, exported the first time it is asked for."""
    folder = tmp_path_factory.mktemp("onnx")

    def path(name: str, scheme: str) -> pathlib.Path:
        file = folder / f"{name}-{scheme}.onnx"
        if not file.exists():
            *model, batches = compressed(name, scheme)
            compress.export_onnx(file, *model, batches=batches)
        return file

    return path


def session(path: pathlib.Path, optimized: pathlib.Path | None = None) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )


def evaluated(path: pathlib.Path, *inputs: Any) -> np.ndarray:
    named = {f"input_{i}": np.asarray(x) for i, x in enumerate(inputs)}
    return session(path).run(None, named)[0]


def operators(path: pathlib.Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def last_step(artifact: compress.Artifact) -> float:
    """What one integer of the last site's input changes an output by, at most."""
    site = artifact.manifest["sites"][-1]
    weight = artifact.weights[site["path"]].astype(np.float32)
    largest = np.abs(weight * artifact.weights[f"{site['path']}::scale"]).max()
    return float(largest * site["activation"]["scale"])


@pytest.mark.parametrize(
    ("name", "scheme"),
    [("mlp", "pruned"), pytest.param("cnn", "pruned", marks=pytest.mark.slow)],
)
def test_onnx_runtime_agrees_with_the_artifact_to_one_step(
    name: str, scheme: str, exported: Any, tmp_path: pathlib.Path
) -> None:
    *model, batches = compressed(name, scheme)
    artifact = compress.export(
        tmp_path / "artifact", *model, batches=batches, platforms=("cpu",)
    )
    for x in (*batches, network(name)[2](3, 7)):  # of sizes that were not exported
        ours, theirs = np.asarray(artifact(x)), evaluated(exported(name, scheme), x)
        # A tie rounded otherwise moves one integer of the last input by one.
        assert np.abs(ours - theirs).max() <= last_step(artifact) * 1.001
        np.testing.assert_array_equal(ours.argmax(-1), theirs.argmax(-1))


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("mlp", "static"),
        ("conv", "static"),
        ("scanned", "static"),
        pytest.param("encoder", "static", marks=pytest.mark.slow),
        ("nnx", "static"),
        ("linen", "static"),
        ("tied", "static"),
        ("experts", "static"),
        ("lstm", "static"),
        ("mlp", "dynamic"),
        ("mlp", "weights"),
        ("conv", "dynamic"),
        ("conv", "weights"),
    ],
)
def test_onnx_runtime_agrees_with_the_trained_forward(
    name: str, scheme: str, exported: Any
) -> None:
    forward, params, transform, state, batches = compressed(name, scheme)
    trained = jax.jit(compress.apply(forward, transform))
    ours = np.asarray(trained(params, state, batches[1]))
    theirs = evaluated(exported(name, scheme), batches[1])
    # A tie may fall the other way; without integers there is none.
    step = 1e-5 if scheme == "weights" else 2 / 127
    np.testing.assert_allclose(theirs, ours, atol=step * np.abs(ours).max())
    np.testing.assert_array_equal(ours.argmax(-1), theirs.argmax(-1))


@pytest.mark.parametrize(
    ("name", "scheme", "kernels"),
    [
        ("mlp", "static", {"QGemm": 2}),
        ("conv", "static", {"QLinearConv": 1, "MatMulIntegerToFloat": 1}),
        ("scanned", "static", {"MatMulIntegerToFloat": 4}),
        ("encoder", "static", {"MatMulIntegerToFloat": 5}),
        ("nnx", "static", {"QLinearConv": 1, "QGemm": 1}),
        ("mlp", "dynamic", {"MatMulInteger": 2}),
    ],
)
def test_onnx_runtime_uses_integer_kernels(
    name: str, scheme: str, kernels: dict[str, int], exported: Any, tmp_path: Any
) -> None:
    optimized = tmp_path / "optimized.onnx"
    session(exported(name, scheme), optimized)
    found = operators(optimized)
    assert {op: found[op] for op in kernels} == kernels
    assert not found["Gemm"] and not found["Conv"] and not found["FusedConv"]


def test_biases_and_batch_norms_are_folded_and_images_stay_channels_first(
    exported: Any,
) -> None:
    found = operators(exported("nnx", "static"))
    # The one division is of bytes by 255; ReLU is part of a Clip of integers.
    assert {op: found[op] for op in ("Mul", "Add", "Sub", "Div", "Relu")} == {
        **dict.fromkeys(("Mul", "Add", "Sub", "Relu"), 0),
        "Div": 1,
    }
    assert found["Transpose"] == 2  # before the convolution, and after the pooling


def test_masked_weights_are_zero_in_the_file(exported: Any) -> None:
    _, params, transform, state, _ = compressed("mlp", "pruned")
    seen = compress.parameters(transform, params, state)
    constants = {
        c.name: numpy_helper.to_array(c)
        for c in onnx.load(exported("mlp", "pruned")).graph.initializer
    }
    for layer in ("first", "head"):
        stored = constants[f"{layer}/kernel"]
        assert stored.dtype == np.int8 and (stored == 0).mean() > 0.3
        np.testing.assert_array_equal(stored, np.asarray(seen[layer]["kernel"].qvalue))


def test_weights_are_stored_as_bytes_and_the_batch_is_free(exported: Any) -> None:
    model = onnx.load(exported("encoder", "static"))
    large = [c for c in model.graph.initializer if np.prod(c.dims) >= 256]
    kinds = {onnx.TensorProto.DataType.Name(c.data_type) for c in large}
    assert kinds == {"INT8", "FLOAT"}  # float: the table of embeddings
    assert sum(c.data_type == onnx.TensorProto.FLOAT for c in large) == 1
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_the_file_says_what_was_done_at_each_site(exported: Any) -> None:
    props = {
        p.key: p.value for p in onnx.load(exported("cnn", "pruned")).metadata_props
    }
    sites = json.loads(props["jax_compress"])["sites"]
    assert [site["name"] for site in sites] == [
        *("stem", "depthwise", "grouped", "last", "head/kernel")
    ]
    assert {site["activation_bits"] for site in sites} == {8}


def test_a_channel_of_zeros_keeps_its_bias(tmp_path: pathlib.Path) -> None:
    kernel = models.normal(np.random.default_rng(0), 6, 4).at[:, 2].set(0.0)
    params = {"kernel": kernel, "bias": jnp.asarray([[0.1, -0.2, 0.00123, 3.0]])}
    x = models.inputs_of("mlp", 8)
    forward = lambda p, x: x @ p["kernel"] + p["bias"]  # noqa: E731
    transform = compress.quantize.fake_quant()
    state = compress.init(forward, transform, params, x)
    state = compress.calibrate(forward, transform, params, state, [x])
    path = tmp_path / "model.onnx"
    compress.export_onnx(path, forward, params, transform, state, batches=[x])
    np.testing.assert_allclose(evaluated(path, x)[:, 2], 0.00123, rtol=1e-5)


def test_values_beyond_the_range_stop_where_the_artifact_stops(
    exported: Any,
) -> None:
    forward, params, transform, state, batches = compressed("scanned", "static")
    trained = jax.jit(compress.apply(forward, transform))
    x = -100 * np.abs(batches[0])  # QuantizeLinear alone would go on to -128
    ours = np.asarray(trained(params, state, x))
    np.testing.assert_allclose(
        evaluated(exported("scanned", "static"), x), ours, rtol=1e-4
    )


def test_a_model_in_float_and_a_model_state_are_exported(
    tmp_path: pathlib.Path,
) -> None:
    def forward(params: Any, state: Any, x: Any) -> Any:
        return {"a": {"b": models.mlp(params, x - state["mean"][None])}, "c": x.sum(1)}

    params, x = models.mlp_params(), models.inputs_of("mlp", 5)
    state = {"mean": jnp.linspace(0, 1, 6)}
    path = compress.export_onnx(
        tmp_path / "m.onnx", forward, params, batches=[x], model_state=state
    )
    loaded = session(path)
    assert [o.name for o in loaded.get_outputs()] == ["output_a_b", "output_c"]
    logits, total = loaded.run(None, {"input_0": x})
    expected = forward(params, state, x)
    np.testing.assert_allclose(logits, expected["a"]["b"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(total, expected["c"], rtol=1e-5, atol=1e-6)


LAYERS = st.lists(
    st.tuples(
        st.sampled_from(["dense", "conv", "depthwise", "grouped", "pool", "norm"]),
        st.sampled_from(["relu", "tanh", "gelu", "relu6", "none"]),
        st.booleans(),  # a residual around it
        st.booleans(),  # a bias after it
    ),
    min_size=1,
    max_size=3,
)
ACTIVATIONS = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "relu6": jax.nn.relu6,
    "none": lambda x: x,
}


def random_params(layers: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    shapes = {
        "dense": (4, 4),
        "conv": (3, 3, 4, 4),
        "depthwise": (3, 3, 1, 4),
        "grouped": (3, 3, 2, 4),
    }
    kernels = {
        str(i): models.normal(rng, *shapes[kind]) / (3 if len(shapes[kind]) > 2 else 1)
        for i, (kind, *_) in enumerate(layers)
        if kind in shapes
    }
    bias = jnp.asarray(rng.normal(size=(len(layers), 1, 1, 1, 4)), jnp.float32)
    return {"kernels": kernels, "bias": bias, "head": models.normal(rng, 4, 3)}


def random_forward(layers: Any, p: Any, x: Any) -> Any:
    groups = {"conv": 1, "depthwise": 4, "grouped": 2}
    for index, (kind, activation, residual, biased) in enumerate(layers):
        before = x
        if kind == "dense":
            x = x @ p["kernels"][str(index)]
        elif kind == "pool":
            x = jax.lax.reduce_window(
                x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "SAME"
            )
        elif kind == "norm":
            x = x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 0.1)
        else:
            kernel = p["kernels"][str(index)]
            x = networks.convolution(x, kernel, groups=groups[kind])
        x = ACTIVATIONS[activation](x + p["bias"][index] if biased else x)
        x = x + before if residual else x
    return x.mean((1, 2)) @ p["head"]


@pytest.mark.slow
@settings(max_examples=5)
@given(layers=LAYERS, seed=st.integers(0, 99))
def test_random_models_agree(layers: Any, seed: int, tmp_path_factory: Any) -> None:
    forward = functools.partial(random_forward, layers)
    params = random_params(layers, seed)
    x = np.random.default_rng(seed).normal(size=(6, 5, 5, 4)).astype(np.float32)
    transform = models.transform_of("static")
    state = compress.init(forward, transform, params, x)
    state = compress.calibrate(forward, transform, params, state, [x])
    path = tmp_path_factory.mktemp("random") / "model.onnx"
    compress.export_onnx(path, forward, params, transform, state, batches=[x])
    ours = np.asarray(jax.jit(compress.apply(forward, transform))(params, state, x))
    # As for artifacts of deep models: two steps of an int8 grid over the outputs.
    difference = np.abs(evaluated(path, x) - ours).max()
    assert difference <= 2 / 127 * np.abs(ours).max()
