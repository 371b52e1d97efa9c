"""One cell: trained, shipped, measured."""

import json
import pathlib
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import compress
import compress.compare.cell as cell
from compress.compare import CellError, run_cell
from compress.compare.cell import calibration_batches, finished_result
from compress.compare.grid import cell_folder
from compress.config import config_hash
from compress.files import write_json
from compress.report import load_compare
from compress.report.items import unpack_items
from compress.task import load_task
from compress.train import RunError, Trained
from tests import tiny
from tests.compare import configs


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The cell `P + PTQ`: its folder, its result, and what was exported."""
    root = tmp_path_factory.mktemp("compare")
    folder = root / cell_folder("P + PTQ", 0)
    exported: dict[str, Any] = {}
    export = cell.export

    def remember(path: Any, *args: Any, **settings: Any) -> Any:
        exported.update(args=args)
        return export(path, *args, **settings)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(cell, "export", remember)
        result = run_cell(
            configs.row(1), folder, seed=0, teachers=root / "teachers", quiet=True
        )
    return folder, result, exported["args"]


def again(folder: pathlib.Path, **changes: Any) -> Any:
    settings = {"seed": 0, "resume": True, "quiet": True, **changes}
    config = settings.pop("config", configs.row(1))
    return run_cell(config, folder, teachers=folder.parent / "teachers", **settings)


def test_the_folder_of_a_cell_is_a_plain_file_name() -> None:
    assert cell_folder("P+Q", 3) == "P+Q-seed3"
    assert cell_folder("8 bit / all layers", 0) == "8_bit_all_layers-seed0"
    assert cell_folder("../../etc", 0) == ".._.._etc-seed0"


def test_the_result_is_one_the_report_accepts(ran: Any) -> None:
    folder, result, _ = ran
    settings = {"name": "t", "rows": ["P + PTQ"], "reference": "P + PTQ", "seeds": [0]}
    (folder.parent / "compare.json").write_text(json.dumps(settings))
    comparison = load_compare(folder.parent)
    assert comparison.failed == ()
    (loaded,) = comparison.cells
    assert (loaded.row, loaded.seed) == ("P + PTQ", 0)
    assert loaded.score == result["score"] == loaded.items.mean()
    assert loaded.items.shape == (40,) and loaded.num_test == 40
    assert loaded.techniques == ("prune", "ptq")
    assert loaded.metrics[-1]["step"] == 20
    assert json.loads((folder / "result.json").read_text()) == result


def test_a_result_of_an_older_version_is_made_again(
    ran: Any, tmp_path: pathlib.Path
) -> None:
    _, result, _ = ran
    config, data = configs.row(1), result["data_hash"]
    for version, expected in ((1, None), (2, {**result, "format_version": 2})):
        old = {**result, "format_version": version}
        (tmp_path / "result.json").write_text(json.dumps(old))
        assert finished_result(config, tmp_path, 0, data) == expected


def test_the_score_is_that_of_the_artifact_on_the_test_set(ran: Any) -> None:
    folder, result, _ = ran
    test = tiny.task().test
    decided = np.asarray(compress.load(folder / "artifact")(test["x"])).argmax(-1)
    assert result["score"] == np.mean(decided == test["y"])
    assert result["agreement"] == 1.0
    assert compress.load(folder / "artifact").manifest["figures"] == {
        "accuracy": result["score"]
    }


def test_the_sizes_are_those_of_the_file_on_disk(ran: Any) -> None:
    folder, result, _ = ran
    assert result["sizes"]["file"] == (
        (folder / "artifact/weights.safetensors").stat().st_size
    )
    # 5 x 8 and 8 x 3 weights, 11 biases, and a count in the model's state.
    assert result["sizes"]["float"] == 4 * 76
    assert result["sizes"]["weights_dense"] == 64
    assert result["train_steps"] == 20
    programs = (folder / "artifact").glob("*.stablehlo")
    assert result["program_bytes"] == sum(path.stat().st_size for path in programs)


def test_every_size_counts_the_state_of_the_model(ran: Any) -> None:
    folder, result, _ = ran
    weights = compress.load(folder / "artifact").weights
    assert weights["model_state/calls"] == 20  # one per training step
    scales = {name for name in weights if name.endswith("::scale")}
    rest = [x for name, x in weights.items() if x.dtype != np.int8]
    assert len(rest) == len(scales) + 3  # two biases and the state
    sizes, rest_bytes = result["sizes"], sum(x.nbytes for x in rest)
    assert sizes["dense"] == sizes["weights_dense"] + rest_bytes
    assert sizes["bitmask"] == sizes["weights_bitmask"] + rest_bytes


def test_a_metric_of_ones_own_is_what_result_figures_and_curves_hold(
    tmp_path: pathlib.Path,
) -> None:
    config = configs.row(0, task="tests.compare.configs:one_number")
    result = again(tmp_path, config=config)
    test, artifact = tiny.task().test, compress.load(tmp_path / "artifact")
    outputs = np.asarray(artifact(test["x"]))
    squares = (outputs - test["y"]) ** 2
    np.testing.assert_allclose(unpack_items(result, 40), squares, rtol=1e-5)
    assert result["score"] == pytest.approx(squares.mean())
    assert result["extras"] == {"largest": pytest.approx(abs(outputs).mean())}
    assert artifact.manifest["figures"].keys() == {"squared error", "largest"}
    described = {"name": "squared error", "unit": "", "scale": 1.0}
    assert result["metric"] == {**described, "higher_is_better": False}
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert result["agreement"] is None  # the outputs are no classes
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert json.loads(lines[-1])["eval_score"] == pytest.approx(
        result["trained_score"], rel=1e-5
    )


def test_the_masks_hold_through_calibration_export_and_reload(ran: Any) -> None:
    folder, result, (_, params, transform, state) = ran
    pruned = transform_part(transform, state)
    weights = compress.load(folder / "artifact").weights
    masked = 0
    for path, mask in pruned.items():
        assert (weights[path][~mask] == 0).all(), path
        masked += (~mask).sum()
    assert masked == 32 and result["sparsity"] == 0.5  # of 64 weights
    assert any(
        (np.asarray(params[p.split("/")[0]]["kernel"])[~m] != 0).any()
        for p, m in pruned.items()
    ), "the float weights behind the mask are zero"
    compress.check(transform, params, state)


def transform_part(transform: Any, state: Any) -> dict[str, np.ndarray]:
    """The masks of the chain within the chain, by path."""
    import jax

    masks = [
        leaf
        for leaf in jax.tree.leaves(state.memory)
        if leaf.dtype == np.bool_ and leaf.ndim == 2
    ]
    by_shape = {mask.shape: np.asarray(mask) for mask in masks}
    return {"first/kernel": by_shape[5, 8], "second/kernel": by_shape[8, 3]}


def test_a_finished_cell_is_returned_as_it_is(
    ran: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, result, _ = ran
    monkeypatch.setattr(cell, "train", None)
    assert again(folder) == result


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"config": configs.row(0)}, {"config": configs.row(1, batch_size=8)}],
)
def test_the_result_of_another_config_or_seed_is_refused(
    ran: Any, changes: Any
) -> None:
    with pytest.raises(CellError, match="Choose another --workdir"):
        again(ran[0], **changes)


def test_what_changes_no_number_is_the_same_config(ran: Any) -> None:
    folder, result, _ = ran
    assert again(folder, config=configs.row(1, keep_checkpoints=1)) == result


def test_a_finished_cell_is_not_overwritten_without_resume(ran: Any) -> None:
    with pytest.raises(RunError, match="Pass --resume to go on"):
        again(ran[0], resume=False)


def test_a_kill_while_the_result_is_written_leaves_no_error_beside_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: pathlib.Path, content: Any) -> None:
        write_json(path, content)
        raise KeyboardInterrupt

    monkeypatch.setattr(cell, "_ship", lambda *args: {})
    monkeypatch.setattr(cell, "write_json", killed)
    (tmp_path / "error.json").write_text('{"error": "of an earlier attempt"}')
    shipping: Any = SimpleNamespace(state=lambda *args: None)
    trained = cast(Any, Trained)(None, None, None, 0.0, 0, ())
    with pytest.raises(KeyboardInterrupt):
        cell.ship_cell(shipping, tiny.task(), trained, tmp_path, seed=0)
    assert (tmp_path / "result.json").exists()
    assert not (tmp_path / "error.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"config_hash": 3}'])
def test_a_damaged_result_is_named(text: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(CellError, match=r"result.json: .*Remove it"):
        finished_result(configs.row(1), tmp_path, 0, "data")


def test_a_cell_that_failed_before_is_no_longer_marked_when_it_succeeds(
    tmp_path: pathlib.Path,
) -> None:
    for name in ("error.json", "traceback.txt"):
        (tmp_path / name).write_text("{}")
    again(tmp_path, config=configs.row(0))
    assert not (tmp_path / "error.json").exists()
    assert not (tmp_path / "traceback.txt").exists()


def test_an_unfinished_cell_goes_on_from_its_checkpoint(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(cell, "_ship", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            again(tmp_path, config=configs.row(0))
    steps = (tmp_path / "metrics.jsonl").read_text()
    result = again(tmp_path, config=configs.row(0))
    assert (tmp_path / "metrics.jsonl").read_text() == steps
    assert result["config_hash"] == config_hash(configs.row(0))


def test_calibration_batches_come_from_the_training_data_alone() -> None:
    task, config = tiny.task(), configs.row(1)
    drawn = calibration_batches(config, task, 0, 3)
    rows = {x.tobytes() for (batch,) in drawn for x in batch}
    assert [batch.shape for (batch,) in drawn] == [(16, 5)] * 3
    assert rows <= {x.tobytes() for x in task.train["x"]}
    assert not rows & {x.tobytes() for x in task.test["x"]}
    assert len(rows) == 48  # none twice


def test_calibration_batches_are_a_function_of_the_seed() -> None:
    config, task = configs.row(1), tiny.task()
    first, same, other = (calibration_batches(config, task, s, 2) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_calibration_asks_for_no_more_batches_than_there_are() -> None:
    # 70 examples are four whole batches of 16.
    assert len(calibration_batches(configs.row(1), tiny.task(), 0, 100)) == 4
    load_task("tests.tiny:task")
