"""Cells that prune: what is exported is what was kept, and it can be built again."""

import json

import numpy as np
import pytest

import compress
from compress.compare import run_cell, upgrade_artifact, write_onnx
from compress.config import parse_config
from compress.export import ArtifactError
from tests.compare import configs

SHRINK = {"budget": {"macs": 0.5}, "round_to": 1, "every": 2}


def config_of(*stages, **more):
    settings = {**configs.SETTINGS, "stages": list(stages), **more}
    return parse_config(settings)


def ran(folder, config):
    teachers = folder.parent / "teachers"
    return run_cell(config, folder, seed=0, teachers=teachers, quiet=True)


@pytest.fixture(scope="module")
def shrunk(tmp_path_factory):
    """A cell whose network loses half of its MACs, then is quantized."""
    folder = tmp_path_factory.mktemp("shrunk") / "cell"
    stages = [
        {"steps": 10, "learning_rate": 0.02, "shrink": SHRINK},
        {"steps": 10, "learning_rate": 0.01},
    ]
    config = config_of(*stages)
    return folder, config, ran(folder, config)


def test_the_artifact_is_the_smaller_network_and_sizes_are_told_against_the_whole(
    shrunk,
):
    folder, _, result = shrunk
    weights = compress.load(folder / "artifact").weights
    assert weights["first/kernel"].shape == (5, 4)
    assert weights["second/kernel"].shape == (4, 3)
    assert result["macs"] == 32
    assert result["techniques"] == ["shrink", "ptq"]
    # 5 x 8 and 8 x 3 weights, 11 biases, and a count in the model's state.
    assert result["sizes"]["float"] == 4 * 76
    assert result["sizes"]["weights_dense"] == 32
    (units,) = result["units"].values()
    assert units["size"] == 8 and len(units["kept"]) == 4
    assert result["agreement"] == 1.0


def test_an_artifact_of_fewer_units_is_upgraded_from_its_config(shrunk):
    folder, _, _ = shrunk
    x = np.ones((2, 5), np.float32)
    before = compress.load(folder / "artifact")(x)
    after = upgrade_artifact(folder / "artifact")(x)
    np.testing.assert_array_equal(before, after)


def test_a_manifest_without_the_kept_units_is_refused(shrunk, tmp_path):
    from compress.compare.rebuild import rebuild

    folder, _, _ = shrunk
    manifest = json.loads((folder / "artifact/manifest.json").read_text())
    manifest["metadata"]["phases"] = {"format_version": 1, "boundaries": []}
    with pytest.raises(ArtifactError, match="which units the model"):
        rebuild(folder / "artifact", manifest)


def test_a_finished_cell_of_fewer_units_becomes_onnx(shrunk):
    onnx = pytest.importorskip("onnx")
    folder, config, _ = shrunk
    path = write_onnx(config, folder, seed=0, teachers=folder.parent / "teachers")
    shapes = {tuple(t.dims) for t in onnx.load(path).graph.initializer}
    assert (5, 4) in shapes and (5, 8) not in shapes


def test_masks_of_a_pattern_survive_export_and_reload(tmp_path):
    prune = {"pattern": "2:4", "exclude": "first/*", "every": 2}
    stages = [
        {"steps": 6, "learning_rate": 0.02, "prune": prune},
        {"steps": 4, "learning_rate": 0.01, "quantize": {}},
    ]
    result = ran(tmp_path / "cell", config_of(*stages, export={"platforms": ["cpu"]}))
    kernel = compress.load(tmp_path / "cell/artifact").weights["second/kernel"]
    assert kernel.dtype == np.int8 and result["sparsity"] == 0.5
    # Of each four inputs of an output at most two are left.
    assert ((kernel.reshape(2, 4, 3) != 0).sum(1) <= 2).all()
