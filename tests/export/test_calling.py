"""The ways to call an artifact, and the cache that makes the first call faster."""

import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import compress
from compress.export import ArtifactError, verify_artifact
from tests.export import models

X = models.inputs_of("mlp", 3)

pytestmark = pytest.mark.usefixtures("without_shared_programs")


def test_every_way_to_call_gives_the_same_numbers(exported: Any) -> None:
    artifact = exported("mlp", "static")
    expected = np.asarray(artifact(X))
    np.testing.assert_array_equal(artifact(jax.device_put(X)), expected)
    np.testing.assert_array_equal(artifact.function(3)(X), expected)
    np.testing.assert_array_equal(artifact.function(3)(jax.device_put(X)), expected)
    # Within a traced function of the user, too.
    inside = jax.jit(lambda x: artifact(x) * 2)(X)
    np.testing.assert_allclose(inside, 2 * expected, rtol=1e-5, atol=1e-6)


def test_an_executable_is_of_one_batch_size(exported: Any) -> None:
    artifact = exported("mlp", "static")
    assert artifact.function(2) is not artifact.function(3)
    with pytest.raises(TypeError):
        artifact.function(2)(X)
    with pytest.raises(ArtifactError, match="batch=0 must be at least 1"):
        artifact.function(0)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "bfloat16", "bool"])
def test_an_input_of_any_dtype_keeps_it_in_the_signature(
    dtype: str, tmp_path: pathlib.Path
) -> None:
    params = models.mlp_params()
    transform = compress.quantize.fake_quant()
    bright = {"uint8": 255.0, "int8": 127.0}.get(dtype, 1.0)

    def forward(params: Any, images: Any) -> Any:
        return models.mlp(params, images.astype(jnp.float32) / bright)

    rng = np.random.default_rng(0)
    batches = [
        rng.uniform(0, bright, size=(4, 6)).astype(jnp.dtype(dtype)) for _ in range(2)
    ]
    state = compress.init(forward, transform, params, batches[0])
    state = compress.calibrate(forward, transform, params, state, batches)
    artifact = compress.export(
        tmp_path / "a",
        forward,
        params,
        transform,
        state,
        batches=batches,
        platforms=["cpu"],
    )
    assert artifact.manifest["inputs"] == [{"shape": ["batch", 6], "dtype": dtype}]
    trained = compress.apply(forward, transform)(params, state, batches[0])
    np.testing.assert_allclose(artifact(batches[0]), trained, rtol=1e-5, atol=1e-6)
    wrong = batches[0].astype(np.float32)
    with pytest.raises(
        ArtifactError, match=rf"input 0 is float32; expected {dtype}. Convert it"
    ):
        artifact(wrong)
    assert len(list(verify_artifact(tmp_path / "a"))) == 5


def settings() -> list[Any]:
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    return [getattr(jax.config, name) for name in names]


@pytest.mark.parametrize("act", ["call", "function"])
def test_compiled_programs_are_kept_beside_and_settings_are_left_alone(
    act: str, copied: pathlib.Path
) -> None:
    before, shipped = settings(), sorted(copied.iterdir())
    cache = copied.with_name("artifact.compiled")

    def run() -> Any:
        artifact = compress.load(copied, cache=cache)
        return artifact(X) if act == "call" else artifact.function(3)(X)

    expected = np.asarray(run())
    kept = {path.name: path.read_bytes() for path in cache.rglob("*-cache")}
    assert kept and settings() == before and sorted(copied.iterdir()) == shipped
    np.testing.assert_array_equal(run(), expected)
    assert {path.name for path in cache.rglob("*-cache")} == set(kept)  # found again
    # What else is compiled is not kept there.
    jax.jit(lambda x: x * 3.25)(X)
    assert {path.name for path in cache.rglob("*-cache")} == set(kept)


def test_a_cache_that_cannot_be_made_is_said_and_not_needed(
    copied: pathlib.Path,
) -> None:
    (copied.parent / "file").write_text("")
    artifact = compress.load(copied, cache=copied.parent / "file" / "cache")
    with pytest.warns(UserWarning, match="cannot be made .*compiling without a cache"):
        assert artifact(X).shape == (3, 4)


@pytest.mark.parametrize("name", ["", "cache"])
def test_a_cache_inside_of_the_artifact_is_refused(
    name: str, copied: pathlib.Path
) -> None:
    with pytest.raises(ArtifactError, match="would be shipped with it. Put it beside"):
        compress.load(copied, cache=copied / name)


def test_loading_writes_nothing_to_the_artifact(copied: pathlib.Path) -> None:
    for path in copied.iterdir():
        path.chmod(0o444)
    copied.chmod(0o555)
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in copied.iterdir()}
    folder = os.stat(copied).st_mtime_ns
    assert len(list(verify_artifact(copied))) == 5
    assert compress.load(copied)(X).shape == (3, 4)
    after = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in copied.iterdir()}
    assert after == before and os.stat(copied).st_mtime_ns == folder
    copied.chmod(0o755)


def test_files_can_be_read_by_others_where_the_folder_can(exported: Any) -> None:
    path = exported("mlp", "static").path
    for file in path.iterdir():
        assert file.stat().st_mode & 0o666 == path.stat().st_mode & 0o666, file.name
