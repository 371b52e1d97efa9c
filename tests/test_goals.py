"""The sizes this project promises, on the model of its demo."""

import pathlib
from typing import Any

import jax
import numpy as np
import pytest

import compress
from compress.compare.cell import describe_artifact
from compress.config import load_config
from compress.report import weights_only_ratio
from experiments.tasks import digits

CONFIG = pathlib.Path(__file__).parents[1] / "configs/digits.yaml"


@pytest.fixture(scope="module")
def model() -> compress.Model:
    """The demo's student as it is before training: sizes do not depend on training."""
    return digits.build(jax.random.key(0), **load_config(str(CONFIG)).model)


def ship(
    directory: pathlib.Path, model: compress.Model, *before: compress.Transform
) -> tuple[compress.Artifact, Any]:
    """The artifact after PTQ, and the forward it was made from."""
    predict, data = model.predictor(), digits.load()["train"]["x"]
    transform = compress.chain(*before, compress.quantize.fake_quant())
    batches = [data[start : start + 128] for start in range(0, 512, 128)]
    state = compress.init(predict, transform, model.params, batches[0])
    state = compress.update(transform, state, model.params)
    state = compress.calibrate(predict, transform, model.params, state, batches)
    artifact = compress.export(
        directory / "artifact",
        predict,
        model.params,
        transform,
        state,
        batches=batches,
        platforms=["cpu"],
    )
    applied = jax.jit(compress.apply(predict, transform))
    return artifact, lambda x: applied(model.params, state, x)


def assert_same_logits(artifact: compress.Artifact, trained: Any) -> None:
    x = digits.load()["test"]["x"]
    ours, theirs = np.asarray(artifact(x)), np.asarray(trained(x))
    # The integers are the same; products with scales and biases may round otherwise.
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())
    np.testing.assert_array_equal(ours.argmax(-1), theirs.argmax(-1))


def test_int8_takes_at_most_27_percent_of_the_float_bytes_scales_included(
    model: compress.Model, tmp_path: pathlib.Path
) -> None:
    artifact, trained = ship(tmp_path, model)
    sizes = describe_artifact(artifact)["sizes"]
    scales = sum(
        array.nbytes
        for name, array in artifact.weights.items()
        if name.endswith("::scale")
    )
    of_scales = scales / sizes["weights_float"]
    assert weights_only_ratio(sizes, "dense") + of_scales <= 0.27
    assert sizes["dense"] / sizes["float"] <= 0.27  # biases included as well
    assert_same_logits(artifact, trained)


def test_int8_with_80_percent_zeros_takes_at_most_12_percent_everything_included(
    model: compress.Model, tmp_path: pathlib.Path
) -> None:
    pruning = compress.prune.magnitude(compress.ramp(0.0, 0.8, steps=(0, 0)))
    artifact, trained = ship(tmp_path, model, pruning)
    sizes = describe_artifact(artifact)["sizes"]
    assert weights_only_ratio(sizes, "bitmask") <= 0.12
    assert sizes["bitmask"] / sizes["float"] <= 0.12
    kept = sum(site["num_nonzero"] for site in artifact.manifest["sites"])
    total = sum(site["num_weights"] for site in artifact.manifest["sites"])
    assert kept / total <= 0.2
    assert_same_logits(artifact, trained)
