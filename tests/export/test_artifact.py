"""An artifact computes, in integers, what was trained."""

import gc
import itertools
import json
import pathlib
import re
import subprocess
import sys
import weakref
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

import compress
from compress.export.lower import Lowering
from compress.export.pack import pack
from compress.export.program import serving_function
from compress.export.shared import Shared
from tests.export import models

QUANTIZED = [
    ("mlp", "static"),
    ("mlp", "dynamic"),
    ("mlp", "pruned"),
    ("conv", "static"),
    ("conv", "dynamic"),
    ("scanned", "static"),
    ("scanned", "dynamic"),
]
OTHERS = [("mlp", "weights"), ("conv", "weights"), ("mlp", "float")]
ROOT = pathlib.Path(__file__).parents[2]


def programs(artifact: compress.Artifact) -> dict[str, str]:
    """The StableHLO text of each program, as it lies on disk."""
    return {
        name: jax.export.deserialize(
            bytearray((artifact.path / entry["file"]).read_bytes())
        ).mlir_module()
        for name, entry in artifact.manifest["programs"].items()
    }


def contractions(text: str) -> list[tuple[str, list[str]]]:
    """Operation, and element types of its operands and result."""
    found = re.findall(
        r"stablehlo\.(dot_general|convolution)\b.*?: \(([^)]*)\) -> (tensor<[^>]*>)",
        text,
    )
    return [
        (op, re.findall(r"(?:x|<)([a-z]+\d+)>", f"{operands}, {result}"))
        for op, operands, result in found
    ]


@pytest.mark.parametrize(("model", "scheme"), QUANTIZED)
def test_every_plain_contraction_is_of_int8_into_int32(
    model: str, scheme: str, exported: Any
) -> None:
    for name, text in programs(exported(model, scheme, "plain")).items():
        found = contractions(text)
        assert found and all(kinds == ["i8", "i8", "i32"] for _, kinds in found), name
        operations = {op for op, _ in found}
        assert ("convolution" in operations) == (model == "conv")


def test_weights_only_contractions_are_in_float(exported: Any) -> None:
    for text in programs(exported("mlp", "weights")).values():
        assert {kind for _, kinds in contractions(text) for kind in kinds} == {"f32"}


@pytest.mark.parametrize(("model", "scheme"), [*QUANTIZED, *OTHERS])
def test_the_artifact_equals_the_trained_forward(
    model: str, scheme: str, exported: Any
) -> None:
    trained = models.trained_forward(model, scheme)
    x = models.inputs_of(model, 32, seed=7)  # not what it was calibrated on
    ours, theirs = np.asarray(exported(model, scheme)(x)), np.asarray(trained(x))
    if scheme in ("static", "pruned"):
        # The integers are the same: only products with scales and biases round.
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    else:
        # Sums of floats, and ranges that come from them, may round otherwise.
        np.testing.assert_allclose(ours, theirs, atol=1e-3 * np.abs(theirs).max())
    np.testing.assert_array_equal(ours.argmax(-1), theirs.argmax(-1))


@pytest.mark.parametrize(("model", "scheme"), [*QUANTIZED, ("mlp", "weights")])
def test_quantized_weights_are_stored_as_int8_beside_their_scales(
    model: str, scheme: str, exported: Any
) -> None:
    stored = load_file(exported(model, scheme).path / "weights.safetensors")
    quantized = [name for name in stored if f"{name}::scale" in stored]
    params = models.MODELS[model][1]()
    assert len(quantized) == 2
    for name in quantized:
        assert stored[name].dtype == np.int8
        assert np.abs(stored[name].astype(int)).max() <= 127
    shapes = {leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim > 1}
    assert {stored[name].shape for name in quantized} == shapes


def test_scanned_layers_have_scales_of_their_own(exported: Any) -> None:
    scale = exported("scanned", "static").weights["layers::scale"]
    assert scale.shape == (3, 1, 6) and len(np.unique(scale)) == scale.size


def test_masked_weights_are_zero_in_the_file_and_after_reload(exported: Any) -> None:
    _, params, transform, state, _ = models.compressed("mlp", "pruned")
    artifact = exported("mlp", "pruned")
    seen = compress.parameters(transform, params, state)
    masked = total = 0
    for layer in ("first", "head"):
        zero = np.asarray(seen[layer]["kernel"].dequantize()) == 0
        path = f"{layer}/kernel"
        on_disk = load_file(artifact.path / "weights.safetensors")[path]
        assert (on_disk[zero] == 0).all() and (artifact.weights[path][zero] == 0).all()
        masked, total = masked + (on_disk == 0).sum(), total + zero.size
    assert masked >= total // 2


@pytest.mark.parametrize(
    ("model", "scheme"), [("mlp", "static"), ("conv", "dynamic"), ("scanned", "static")]
)
def test_batches_of_any_size_and_the_static_one_agree(
    model: str, scheme: str, exported: Any
) -> None:
    artifact = exported(model, scheme)
    x = models.inputs_of(model, 7, seed=3)
    whole = np.asarray(artifact(x))
    for size in (1, 2):
        part = np.asarray(artifact(x[:size]))
        # Each row is computed alone; vectorized or not, floats may round otherwise.
        np.testing.assert_allclose(part, whole[:size], rtol=1e-5, atol=1e-6)
    assert artifact.function(1) is not artifact.function(2)
    np.testing.assert_array_equal(artifact.function(7)(x), whole)


def test_it_gives_the_same_bits_after_a_reload(exported: Any) -> None:
    artifact = exported("conv", "static")
    x = models.inputs_of("conv", 4, seed=5)
    again = compress.load(artifact.path)
    assert again is not artifact
    np.testing.assert_array_equal(again(x), artifact(x))


def test_the_manifest_says_what_was_shipped(exported: Any) -> None:
    artifact = exported("mlp", "static")
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    assert manifest == artifact.manifest
    assert manifest["format_version"] == 3
    assert manifest["jax_version"] == jax.__version__
    assert manifest["inputs"] == [{"shape": ["batch", 6], "dtype": "float32"}]
    assert manifest["outputs"] == [{"shape": ["batch", 4], "dtype": "float32"}]
    assert set(manifest["files"]) == {*models.FILES} - {"manifest.json"}
    first, head = manifest["sites"]
    assert (first["name"], first["op"]) == ("first/kernel", "dot_general")
    assert (first["weight_bits"], first["activation_bits"]) == (8, 8)
    assert (first["macs"], first["num_weights"], first["num_scales"]) == (96, 96, 16)
    assert first["activation"]["range"] == "static" and first["activation"]["scale"] > 0
    assert head["shape"] == [16, 4] and head["reason"] is None
    # 96 + 64 int8 weights, 16 + 4 scales and as many biases of four bytes.
    assert manifest["sizes"] == {"weights": 320, "float32": 720, "parameters": 180}
    verification = manifest["verification"]
    # Two batches of five, and one item for the program of batch 1.
    assert verification["items"] == verification["decisions"] == 11
    assert verification["static_items"] == 1
    assert verification["largest_difference"] <= verification["tolerance"] == 1e-3


@pytest.mark.parametrize(
    ("scheme", "weight_bits", "activation"),
    [
        ("dynamic", 8, {"bits": 8, "range": "dynamic"}),
        ("weights", 8, {"bits": 32}),
        ("float", 32, {"bits": 32}),
    ],
)
def test_the_manifest_says_how_each_site_was_quantized(
    scheme: str, weight_bits: int, activation: Any, exported: Any
) -> None:
    for site in exported("mlp", scheme).manifest["sites"]:
        assert site["weight_bits"] == weight_bits and site["activation"] == activation


def test_a_half_precision_weight_is_counted_with_sixteen_bits(
    tmp_path: pathlib.Path,
) -> None:
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), models.mlp_params())
    x = jnp.asarray(models.inputs_of("mlp", 3), jnp.bfloat16)
    artifact = compress.export(
        tmp_path / "a", models.mlp, params, batches=[x], platforms=["cpu"]
    )
    assert [site["weight_bits"] for site in artifact.manifest["sites"]] == [16, 16]
    assert artifact(x).dtype == jnp.bfloat16


def test_a_tied_weight_is_int8_at_both_of_its_sites(tmp_path: pathlib.Path) -> None:
    @jax.custom_vjp
    def opaque(x: Any, w: Any) -> Any:
        return x @ w

    opaque.defvjp(lambda x, w: (opaque(x, w), (x, w)), lambda saved, g: saved)
    params = {"w": models.normal(np.random.default_rng(0), 6, 6)}
    forward = lambda p, x: opaque(jnp.tanh(x @ p["w"]), p["w"])  # noqa: E731
    transform = compress.quantize.fake_quant(activations="int8_dynamic")
    x = models.inputs_of("mlp", 3)
    state = compress.init(forward, transform, params, x)
    artifact = compress.export(
        tmp_path / "a",
        forward,
        params,
        transform,
        state,
        batches=[x],
        platforms=["cpu"],
    )
    taken, skipped = artifact.manifest["sites"]
    assert (taken["weight_bits"], taken["activation_bits"]) == (8, 8)
    assert (skipped["weight_bits"], skipped["activation_bits"]) == (8, 32)
    assert taken["reason"] is None and skipped["reason"] is not None


def test_it_can_have_several_inputs_and_outputs(tmp_path: pathlib.Path) -> None:
    def forward(params: Any, x: Any, y: Any) -> Any:
        return {"sum": models.mlp(params, x + y), "y": y}

    x = models.inputs_of("mlp", 3)
    artifact = compress.export(
        tmp_path / "a",
        forward,
        models.mlp_params(),
        batches=[(x, x)],
        platforms=["cpu"],
        static_batch=3,
    )
    out = artifact(x, 2 * x)
    np.testing.assert_array_equal(out["y"], 2 * x)
    assert len(artifact.manifest["inputs"]) == len(artifact.manifest["outputs"]) == 2
    assert artifact.manifest["programs"]["static"]["batch"] == 3
    assert artifact(x[:2], x[:2])["sum"].shape == (2, 4)


def model_with_statistics() -> tuple[Any, compress.Model]:
    """`(params, model_state, x) -> outputs`, and a model whose statistics are not 0."""
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.dense = nnx.Linear(6, 8, rngs=rngs)
            self.norm = nnx.BatchNorm(8, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.head = nnx.Linear(8, 4, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.head(self.drop(nnx.relu(self.norm(self.dense(x)))))

    model = compress.from_nnx(Net(nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    measured = lambda x: jnp.asarray(rng.uniform(0.5, 2, x.shape), x.dtype)  # noqa: E731
    statistics = jax.tree.map(measured, model.model_state)
    forward = lambda params, state, x: model.forward(params, state, x)[0]  # noqa: E731
    return forward, model._replace(model_state=statistics)


def vectors_in(text: str, size: int) -> list[str]:
    """Constants of `size` different float32 numbers in a program."""
    return re.findall(rf'dense<(?:\[|")[^>]*> : tensor<(?:1x)*{size}xf32>', text)


@pytest.mark.parametrize("scheme", ["static", "float"])
def test_batch_statistics_are_shipped_as_weights_and_are_not_in_the_program(
    scheme: str, tmp_path: pathlib.Path
) -> None:
    forward, model = model_with_statistics()
    params, statistics = model.params, model.model_state
    x = models.inputs_of("mlp", 4)
    transform = state = None
    trained = forward(params, statistics, x)
    if scheme == "static":
        transform = compress.quantize.fake_quant()
        state = compress.init(forward, transform, params, statistics, x)
        state = compress.calibrate(forward, transform, params, state, [(statistics, x)])
        applied = jax.jit(compress.apply(forward, transform))
        trained = applied(params, state, statistics, x)
    artifact = compress.export(
        tmp_path / "a",
        forward,
        params,
        transform,
        state,
        model_state=statistics,
        batches=[x],
        platforms=["cpu"],
    )
    # The integers are the same; normalization in float32 may round otherwise.
    np.testing.assert_allclose(artifact(x), trained, rtol=1e-4, atol=1e-5)
    stored = load_file(artifact.path / "weights.safetensors")
    for name in ("mean", "var"):
        np.testing.assert_array_equal(
            stored[f"model_state/norm/{name}"], statistics["norm"][name]
        )
    assert not any(vectors_in(text, 8) for text in programs(artifact).values())
    sizes = artifact.manifest["sizes"]
    assert sizes["weights"] == sum(array.nbytes for array in stored.values())
    assert sizes["float32"] == 4 * (sizes["parameters"] + 16)
    assert artifact.manifest["inputs"] == [{"shape": ["batch", 6], "dtype": "float32"}]


def test_statistics_that_forward_closes_over_are_found_by_the_test_above(
    tmp_path: pathlib.Path,
) -> None:
    forward, model = model_with_statistics()
    artifact = compress.export(
        tmp_path / "a",
        lambda params, x: forward(params, model.model_state, x),
        model.params,
        batches=[models.inputs_of("mlp", 4)],
        platforms=["cpu"],
    )
    assert all(vectors_in(text, 8) for text in programs(artifact).values())


def test_an_artifact_and_its_weights_are_freed_when_nobody_needs_them(
    exported: Any,
) -> None:
    artifact = compress.load(exported("mlp", "static").path)
    artifact(models.inputs_of("mlp", 2))
    assert artifact.function(2) is artifact.function(2)  # compiled once
    seen = [weakref.ref(artifact), *map(weakref.ref, artifact.weights.values())]
    del artifact
    gc.collect()
    assert [reference() for reference in seen] == [None] * len(seen)


def test_it_exports_for_platforms_that_are_not_here(tmp_path: pathlib.Path) -> None:
    artifact = models.export(
        tmp_path / "a", "mlp", "static", platforms=("cpu", "cuda", "tpu")
    )
    assert artifact.manifest["platforms"] == ["cpu", "cuda", "tpu"]
    program = artifact.path / artifact.manifest["programs"]["symbolic"]["file"]
    read = jax.export.deserialize(bytearray(program.read_bytes()))
    assert read.platforms == ("cpu", "cuda", "tpu")


_DEVICE = """
import importlib.abc, sys

BLOCKED = {blocked}

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Finder())
import pickle, _pickle
import numpy as np
import jax, jax.export
from compress.export import load

def refuse(*args, **kwargs):
    raise AssertionError("pickle was used to load an artifact")

for module in (pickle, _pickle):
    for name in ("load", "loads", "Unpickler"):
        setattr(module, name, refuse)
sys.addaudithook(lambda event, args: refuse() if event.startswith("pickle.") else None)
for path in sys.argv[1:]:
    x = np.load(path + "/input.npy", allow_pickle=False)
    np.save(path + "/output.npy", np.asarray(load(path + "/artifact")(x)))
assert not BLOCKED & {{name.split(".")[0] for name in sys.modules}}
"""


def test_a_device_needs_no_model_source_no_training_library_and_no_pickle(
    exported: Any, tmp_path: pathlib.Path
) -> None:
    blocked = {"flax", "optax", "orbax", "pydantic", "yaml", "absl", "altair"}
    blocked |= {"jaxtyping", "rich", "tests", "experiments", "sklearn", "jinja2"}
    folders = []
    for model, scheme in (
        ("mlp", "pruned"),
        ("conv", "static"),
        ("scanned", "dynamic"),
    ):
        folder = tmp_path / model
        folder.mkdir()
        np.save(folder / "input.npy", models.inputs_of(model, 3))
        (folder / "artifact").symlink_to(exported(model, scheme).path)
        folders.append((folder, exported(model, scheme), models.inputs_of(model, 3)))
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            _DEVICE.format(blocked=blocked),
            *(f for f, *_ in folders),
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for folder, artifact, x in folders:
        np.testing.assert_array_equal(np.load(folder / "output.npy"), artifact(x))


def random_model(draw: Any) -> tuple[Any, Any, tuple[int, ...]]:
    """A chain of dense layers, maybe behind a convolution."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    widths = draw(st.lists(st.integers(1, 9), min_size=2, max_size=4))
    kernel = draw(st.sampled_from([None, (1, 1), (2, 3), (3, 2)]))
    stride = draw(st.integers(1, 2))
    scale = 10.0 ** draw(st.integers(-4, 4))
    dense = [models.normal(rng, a, b) for a, b in itertools.pairwise(widths)]
    params: dict[str, Any] = {f"dense{i}": scale * w for i, w in enumerate(dense)}
    if kernel is not None:
        params["conv"] = models.normal(rng, *kernel, 2, widths[0])

    def forward(params: Any, x: Any) -> Any:
        if kernel is not None:
            numbers = ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_general_dilated(
                x, params["conv"], (stride,) * 2, "SAME", dimension_numbers=numbers
            )
            x = jnp.tanh(x).mean((1, 2))
        for index in range(len(widths) - 1):
            x = jnp.tanh(x) @ params[f"dense{index}"]
        return x

    return forward, params, (widths[0],) if kernel is None else (5, 4, 2)


@given(st.data(), st.sampled_from(["int8", "int8_dynamic"]), st.booleans())
def test_exported_integers_reproduce_the_trained_forward(
    data: Any, activations: str, pruned: bool
) -> None:
    forward, params, shape = random_model(data.draw)
    x = np.random.default_rng(0).normal(size=(8, *shape)).astype(np.float32)
    transform = compress.chain(
        *([compress.prune.magnitude(compress.ramp(0.0, 0.5, steps=(0, 0)))] * pruned),
        compress.quantize.fake_quant(activations=activations),
    )
    state = compress.init(forward, transform, params, x)
    state = compress.update(transform, state, params)
    if activations == "int8":
        state = compress.calibrate(forward, transform, params, state, [x])
    seen = Shared(forward, transform).seen(params, state)
    packed = pack(params, seen, int(state.step), None)
    serve = serving_function(forward, transform, packed, params, state, Lowering())
    ours = np.asarray(jax.jit(serve)(packed.weights, x))
    theirs = np.asarray(jax.jit(compress.apply(forward, transform))(params, state, x))
    # The sums of integers are exact. tanh and means are floats of whichever program,
    # and one that rounds to the next integer moves the next layer by a step of 127.
    bound = (1e-5 if len(params) == 1 else 2 / 127) * np.abs(theirs).max()
    assert np.abs(ours - theirs).max() <= bound
    close = np.sort(theirs, -1)
    if theirs.shape[-1] > 1:
        decided = close[:, -1] - close[:, -2] > 2 * bound
        same = ours.argmax(-1) == theirs.argmax(-1)
        assert same[decided].all()


def test_int4_weights_are_two_per_byte_and_multiplied_as_int8(
    tmp_path: pathlib.Path,
) -> None:
    params, x = models.mlp_params(), models.inputs_of("mlp", 9)
    transform = compress.quantize.fake_quant(weights="int4")
    state = compress.init(models.mlp, transform, params, x)
    state = compress.calibrate(models.mlp, transform, params, state, [x])
    artifact = compress.export(
        tmp_path / "a",
        models.mlp,
        params,
        transform,
        state,
        batches=[x],
        platforms=["cpu"],
    )
    stored = load_file(artifact.path / "weights.safetensors")
    assert stored["first/kernel"].dtype == np.uint8
    assert stored["first/kernel"].shape == (6 * 16 // 2,)
    assert [site["weight_bits"] for site in artifact.manifest["sites"]] == [4, 4]
    # 96 + 64 weights of half a byte, 20 scales and 20 biases of four.
    assert artifact.manifest["sizes"]["weights"] == 80 + 160
    integers = artifact.weights["first/kernel"].astype(np.int8)
    assert np.abs(integers).max() == 7
    trained = jax.jit(compress.apply(models.mlp, transform))(params, state, x)
    np.testing.assert_allclose(artifact(x), trained, rtol=1e-5, atol=1e-6)


def test_outputs_that_are_no_classes_may_be_ordered_otherwise(
    tmp_path: pathlib.Path,
) -> None:
    # Two equal columns: which is the larger is a matter of rounding.
    params = {"w": jnp.tile(models.normal(np.random.default_rng(0), 6, 1), (1, 2))}
    forward = lambda p, x: jnp.tanh(x @ p["w"])  # noqa: E731
    artifact = compress.export(
        tmp_path / "a",
        forward,
        params,
        batches=[models.inputs_of("mlp", 3)],
        platforms=["cpu"],
        classifies=False,
    )
    assert artifact.manifest["verification"]["decisions"] == 0
    assert artifact.manifest["verification"]["classifies"] is False
