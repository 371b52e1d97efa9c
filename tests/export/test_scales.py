"""Inputs that come as integers: their scale is in the artifact and its signature."""

import pathlib
import shutil
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import compress
from compress.cli.inspecting import inspect_artifact
from compress.export import ArtifactError, verify_artifact
from tests.export import models

SCALE = 1 / 255


def pixels(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, size=(count, 6, 6, 2), dtype=np.uint8)


def real(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) * np.float32(SCALE)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A CNN trained on reals, exported for pixels, and its trained forward."""
    params = models.conv_params()
    transform = compress.quantize.fake_quant()
    images = [pixels(5, seed) for seed in range(2)]
    batches = [real(batch) for batch in images]
    state = compress.init(models.conv, transform, params, batches[0])
    state = compress.calibrate(models.conv, transform, params, state, batches)
    artifact = compress.export(
        tmp_path_factory.mktemp("pixels") / "artifact",
        models.conv,
        params,
        transform,
        state,
        batches=images,
        platforms=["cpu"],
        input_scales=[SCALE],
    )
    return artifact, lambda x: compress.apply(models.conv, transform)(params, state, x)


def test_pixels_give_what_their_reals_give_the_trained_model(exported: Any) -> None:
    artifact, trained = exported
    for count in (1, 7):
        images = pixels(count, seed=9)
        expected = trained(real(images))
        # The float epilogue may round once more or less.
        np.testing.assert_allclose(artifact(images), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ArtifactError, match="input 0 is float32; expected uint8"):
        artifact(real(images))


def test_the_scale_is_in_the_signature(exported: Any) -> None:
    artifact, _ = exported
    spec = {"shape": ["batch", 6, 6, 2], "dtype": "uint8", "scale": SCALE}
    assert artifact.manifest["inputs"] == [spec]
    told = "uint8[batch, 6, 6, 2] * 0.003922"
    assert f"inputs:  {told}\n" in inspect_artifact(artifact.path)
    assert any(
        f"signature: {told} -> " in line for line in verify_artifact(artifact.path)
    )


def test_an_upgrade_keeps_it(exported: Any, tmp_path: pathlib.Path) -> None:
    artifact, _ = exported
    copy = shutil.copytree(artifact.path, tmp_path / "artifact")
    for program in copy.glob("*.stablehlo"):
        program.write_bytes(b"of another JAX")
    transform = compress.quantize.fake_quant()
    again = compress.upgrade(copy, models.conv, models.conv_params(), transform)
    assert again.manifest["inputs"] == artifact.manifest["inputs"]
    np.testing.assert_array_equal(again(pixels(3)), artifact(pixels(3)))


@pytest.mark.parametrize(
    ("scales", "dtype", "message"),
    [
        ([], "uint8", "0 input_scales for 1 inputs"),
        ([0.1, None], "uint8", "2 input_scales for 1 inputs"),
        ([0.0], "uint8", r"input_scales\[0\]=0.0 must be positive and finite"),
        ([-0.5], "uint8", "must be positive and finite"),
        ([float("nan")], "uint8", "must be positive and finite"),
        ([1e-50], "uint8", "must be positive and finite in float32"),
        ([0.1], "float32", "input 0 is float32, and a scale is for integers"),
    ],
)
def test_scales_that_do_not_fit_are_refused(
    scales: Any, dtype: str, message: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(ArtifactError, match=message):
        compress.export(
            tmp_path / "artifact",
            models.conv,
            models.conv_params(),
            batches=[pixels(2).astype(dtype)],
            input_scales=scales,
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scale", [0, -1.0, "1", None, float("inf"), [1.0]])
def test_a_manifest_with_a_scale_that_is_none_is_refused(
    scale: Any, exported: Any, tmp_path: pathlib.Path
) -> None:
    copy = shutil.copytree(exported[0].path, tmp_path / "artifact")
    models.rewrite_manifest(copy, lambda m: m["inputs"][0].update(scale=scale))
    with pytest.raises(ArtifactError, match=r"inputs\[0\].scale is .*Export again"):
        compress.load(copy)


def test_one_of_several_inputs_may_have_a_scale(tmp_path: pathlib.Path) -> None:
    def forward(params: Any, x: Any, images: Any) -> Any:
        return x @ params["w"] + images.reshape(x.shape[0], -1)[:, :3]

    params = {"w": jnp.eye(3)}
    x, images = np.ones((4, 3), np.float32), pixels(4)
    artifact = compress.export(
        tmp_path / "artifact",
        forward,
        params,
        batches=[(x, images)],
        platforms=["cpu"],
        input_scales=[None, 0.5],
    )
    expected = 1 + images.reshape(4, -1)[:, :3] * 0.5  # exact in float32
    np.testing.assert_array_equal(artifact(x, images), expected)
