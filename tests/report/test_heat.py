"""What is left of a network, drawn: sparsity per site, units per group."""

import json

import pytest

from compress.report import load_compare, render_table
from compress.report.charts import all_figures
from compress.report.heat import sparsity_cells, unit_cells
from compress.report.rows import summarize_rows

UNITS = {
    "first/kernel:3": {"size": 4, "kept": [0, 2]},
    "up/kernel:2": {"size": 3, "kept": [[0, 1], [1, 2]]},
    "wide/kernel:1": {"size": 200, "kept": list(range(100))},
}


@pytest.fixture
def pruned(compare_dir):
    """Row P has sites that get sparse, row PTQ has lost units."""
    for seed in range(3):
        path = compare_dir / f"P-{seed}" / "metrics.jsonl"
        lines = [{"step": s, "stage": "p", "loss": 1.0} for s in (10, 20)]
        for line, zeros in zip(lines, (0.0, 0.5 + 0.1 * seed)):
            line["sparsity/a/kernel"] = zeros
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        path = compare_dir / f"PTQ-{seed}" / "result.json"
        result = json.loads(path.read_text())
        units = {**UNITS, "first/kernel:3": {"size": 4, "kept": [0, seed + 1]}}
        path.write_text(json.dumps({**result, "units": units}))
    return load_compare(compare_dir)


def test_a_site_is_as_sparse_as_its_seeds_on_average(pruned):
    first, second = sparsity_cells(pruned, "P")
    assert (first["start"], first["end"], first["value"]) == (0, 10, 0.0)
    assert (second["name"], second["start"], second["end"]) == ("a/kernel", 10, 20)
    assert second["value"] == pytest.approx(60.0)
    assert sparsity_cells(pruned, "P+Q") == []


def test_a_unit_is_as_bright_as_it_survived_often_and_layers_stand_alone(pruned):
    cells = unit_cells(pruned, "PTQ")
    by_group = {}
    for cell in cells:
        by_group.setdefault(cell["name"], []).append(cell["value"])
    names = list(by_group)
    assert names == [
        "first/kernel:3 (2 of 4)",
        "up/kernel:2 [0] (2 of 3)",
        "up/kernel:2 [1] (2 of 3)",
        "wide/kernel:1 (100 of 200)",
    ]
    # Groups share an axis, so 200 units make every cell three units wide.
    assert by_group[names[0]] == pytest.approx([100 * 5 / 9, 100 / 3])
    assert len(by_group[names[3]]) == 67 and by_group[names[3]][-1] == 0.0


def test_the_report_draws_both_and_says_which_rows_are_smaller_networks(pruned):
    altair = pytest.importorskip("altair")
    figures = {f.name: f for f in all_figures(pruned, summarize_rows(pruned))}
    assert [plot.view for plot in figures["units"].plots] == ["PTQ"]
    assert [plot.view for plot in figures["sparsity-sites"].plots] == ["P"]
    for name in ("units", "sparsity-sites"):
        altair.LayerChart.from_dict(figures[name].plots[0].wide)  # validates
        altair.LayerChart.from_dict(figures[name].plots[0].narrow)
    assert "PTQ: whole units are gone, from file, arithmetic" in render_table(pruned)


def test_a_row_that_lost_nothing_is_no_smaller_network(compare_dir):
    assert "whole units are gone" not in render_table(load_compare(compare_dir))
