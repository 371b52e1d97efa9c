"""Reading a compare directory, whole or broken."""

import json

import pytest

from compress.report import load_compare, render_table


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def failures(comparison):
    return {(cell.row, cell.seed): cell.error for cell in comparison.failed}


def test_whole_directory_gives_every_cell(compare_dir):
    comparison = load_compare(compare_dir)
    assert len(comparison.cells) == 12
    assert comparison.failed == ()
    assert [cell.seed for cell in comparison.cells_of("P+Q")] == [0, 1, 2]


def test_items_are_what_the_score_is_the_mean_of(compare_dir):
    for cell in load_compare(compare_dir).cells:
        assert cell.items.shape == (cell.num_test,)
        assert cell.items.mean() == pytest.approx(cell.score)


def test_error_json_is_a_failed_cell_even_beside_a_result(compare_dir):
    error = {"row": "P", "seed": 1, "error": "loss is nan"}
    (compare_dir / "P-1" / "error.json").write_text(json.dumps(error))
    assert failures(load_compare(compare_dir)) == {("P", 1): "loss is nan"}


def test_missing_cell_is_a_failed_cell(compare_dir):
    (compare_dir / "P-1" / "result.json").unlink()
    assert "no result.json" in failures(load_compare(compare_dir))["P", 1]


def test_result_without_a_key_is_a_failed_cell_that_names_the_key(compare_dir):
    path = compare_dir / "P-1" / "result.json"
    result = json.loads(path.read_text())
    del result["agreement"]
    path.write_text(json.dumps(result))
    assert "missing agreement" in failures(load_compare(compare_dir))["P", 1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_test": 5000}, "needs 625"),
        ({"format_version": 3}, "Export the cell again"),
        ({"sizes": {"dense": 1}}, "missing file, bitmask"),
        ({"row": "unknown"}, "is not in compare.json"),
        ({"seed": 0}, "a second result"),
    ],
)
def test_result_that_cannot_be_used_is_a_failed_cell(compare_dir, changes, reason):
    edit(compare_dir / "P-1" / "result.json", **changes)
    assert any(reason in e for e in failures(load_compare(compare_dir)).values())


def test_truncated_result_is_a_failed_cell(compare_dir):
    (compare_dir / "P-1" / "result.json").write_text('{"row": "P"')
    assert any("not JSON" in e for e in failures(load_compare(compare_dir)).values())


def test_later_lines_of_a_resumed_run_win(compare_dir):
    lines = [
        {"step": 0, "loss": 3.0},
        {"step": 10, "loss": 2.0},
        {"step": 10, "eval_accuracy": 0.5},
        {"step": 10, "loss": 1.0},
    ]
    path = compare_dir / "P-1" / "metrics.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    (cell,) = (c for c in load_compare(compare_dir).cells_of("P") if c.seed == 1)
    assert cell.metrics[1] == {"step": 10, "loss": 1.0, "eval_score": 0.5}


def test_unreadable_metrics_lines_are_recorded(compare_dir):
    path = compare_dir / "P-1" / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 4')
    (cell,) = (c for c in load_compare(compare_dir).cells_of("P") if c.seed == 1)
    assert "metrics.jsonl: 1 unreadable lines left out" in cell.records


def test_directory_without_latency_has_none(compare_dir):
    (compare_dir / "latency.json").unlink()
    assert load_compare(compare_dir).latency == {}


def test_directory_without_compare_json_says_what_to_pass(tmp_path):
    with pytest.raises(FileNotFoundError, match="that a comparison was written to"):
        load_compare(tmp_path)


def test_unknown_reference_names_the_nearest_row(compare_dir):
    edit(compare_dir / "compare.json", reference="flaot")
    with pytest.raises(ValueError, match="The nearest: float"):
        load_compare(compare_dir)


def test_machines_are_those_of_the_runs_each_once(compare_dir):
    folders = sorted(path.parent for path in compare_dir.glob("*/result.json"))
    for number, folder in enumerate(folders):
        machine = {"cpu": f"CPU {min(number, 1)}"}
        (folder / "run.json").write_text(json.dumps({"machine": machine}))
    comparison = load_compare(compare_dir)
    assert [machine["cpu"] for machine in comparison.machines] == ["CPU 0", "CPU 1"]
    assert "Trained on CPU 0; CPU 1." in render_table(comparison)
