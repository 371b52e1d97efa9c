"""The table and the sentences below it."""

import csv
import io
import json

import pytest

from compress.report import load_compare, render_table
from compress.report.metric import MetricRecord
from compress.report.notes import (
    SPARSITY_NOTE,
    summary_sentences,
)
from compress.report.rows import compare_rows, summarize_rows
from compress.report.stats import Difference, Summary
from compress.report.units import (
    format_bytes,
    format_count,
    format_difference,
    format_microseconds,
    format_score,
)

ACCURACY = MetricRecord()


def markdown_row(text, name):
    (line,) = (x for x in text.splitlines() if x.startswith(f"| {name} |"))
    return line


def fail_every_run_of(compare_dir, row):
    for seed in range(3):
        (compare_dir / f"{row}-{seed}" / "result.json").unlink()


def test_every_row_is_in_the_table_with_its_numbers(compare_dir):
    text = render_table(load_compare(compare_dir))
    assert [x.split(" ")[1] for x in text.splitlines()[2:6]] == list(
        load_compare(compare_dir).rows
    )
    line = markdown_row(text, "P+Q")
    assert "80.0 %" in line
    assert "27.1 kB (11.5x)" in line  # 25,142 for the weights, 2,000 for the rest
    assert "0.66x (154 µs)" in line


def test_reference_row_has_no_difference_to_itself(compare_dir):
    rows = {row.name: row for row in summarize_rows(load_compare(compare_dir))}
    assert rows["float"].difference is None
    assert rows["P+Q"].difference is not None
    assert rows["P+Q"].difference.bootstrap is not None


def test_notes_say_what_sparsity_does_not_do_and_how_it_was_measured(compare_dir):
    text = render_table(load_compare(compare_dir))
    assert SPARSITY_NOTE in text
    assert "3 seeds (0, 1, 2)" in text
    assert "rows interleaved" in text
    assert "Test CPU 9000" in text
    assert "Trained for 400 steps." in text


def test_row_whose_runs_all_failed_is_shown_without_numbers(compare_dir):
    fail_every_run_of(compare_dir, "P+Q")
    comparison = load_compare(compare_dir)
    line = markdown_row(render_table(comparison), "P+Q")
    assert line.count("—") >= 8
    assert "0 (3 failed)" in line
    assert "P+Q: 3 seeds failed and left out." in render_table(comparison)


def test_failed_reference_leaves_differences_out(compare_dir):
    fail_every_run_of(compare_dir, "float")
    rows = summarize_rows(load_compare(compare_dir))
    assert all(row.difference is None for row in rows)


def test_comparison_without_any_result_still_has_a_table(compare_dir):
    for row in ("float", "P", "PTQ", "P+Q"):
        fail_every_run_of(compare_dir, row)
    comparison = load_compare(compare_dir)
    assert "No run finished" in summary_sentences(comparison, [])[1]
    text = render_table(comparison, style="terminal", width=200)
    assert "P+Q - PTQ: not known" in text


def test_contrast_of_one_seed_claims_nothing(tmp_path, made_up):
    directory = made_up.write_compare(tmp_path / "one", seeds=[0])
    comparison = load_compare(directory)
    text = render_table(comparison)
    assert "not known, one seed has no interval" in text
    assert "One seed (0)" in text
    assert "one seed" in markdown_row(text, "P")


def test_contrast_with_an_unknown_row_names_the_nearest(compare_dir):
    comparison = load_compare(compare_dir)
    with pytest.raises(ValueError, match=r"The nearest: PTQ"):
        render_table(comparison, contrasts=[("PTQQ", "float")])


def test_unknown_style_or_accounting_names_the_known_ones(compare_dir):
    comparison = load_compare(compare_dir)
    with pytest.raises(ValueError, match="Use markdown, terminal or csv"):
        render_table(comparison, style="html")
    with pytest.raises(ValueError, match="The nearest: zlib"):
        render_table(comparison, accountings=["zip"])


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_terminal_table_fits_and_cuts_nothing_off(compare_dir, width):
    text = render_table(load_compare(compare_dir), style="terminal", width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert text.count("(11.5x)") >= 1


def test_csv_has_plain_numbers(compare_dir):
    comparison = load_compare(compare_dir)
    text = render_table(comparison, style="csv")
    lines = {line["row"]: line for line in csv.DictReader(io.StringIO(text))}
    accuracies = [cell.score for cell in comparison.cells_of("P")]
    assert float(lines["P"]["score_mean"]) == pytest.approx(sum(accuracies) / 3)
    assert lines["P"]["within_noise"] in ("True", "False")
    assert float(lines["P+Q"]["bitmask_bytes"]) == 27_142
    assert lines["float"]["difference_mean"] == ""


def test_sizes_say_what_they_leave_out(compare_dir):
    text = render_table(load_compare(compare_dir))
    assert "everything shipped" not in text
    assert "| Weights file |" in text.splitlines()[0]
    assert "On top of every size come the artifact's programs, 41.2 kB together" in text


def test_agreement_that_was_not_measured_is_a_dash_and_an_empty_field(compare_dir):
    path = compare_dir / "P-1" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"agreement": None}))
    comparison = load_compare(compare_dir)
    assert comparison.failed == ()
    title, _, *_ = render_table(comparison).splitlines()
    index = title.split(" | ").index("Artifact = trained")
    cells = {
        row: markdown_row(render_table(comparison), row).split(" | ")[index]
        for row in ("P", "PTQ")
    }
    assert cells == {"P": "—", "PTQ": "99.80 %"}
    text = render_table(comparison, style="csv")
    lines = {line["row"]: line for line in csv.DictReader(io.StringIO(text))}
    assert lines["P"]["agreement"] == ""
    assert float(lines["PTQ"]["agreement"]) == pytest.approx(0.998)


def test_bar_in_a_row_name_does_not_break_the_markdown(tmp_path, made_up):
    rows = {"float": (0.8, 0.0, 32, []), "a|b": (0.8, 0.0, 8, [])}
    directory = made_up.write_compare(tmp_path / "bar", rows, contrasts=[])
    assert "| a\\|b |" in render_table(load_compare(directory))


def test_different_test_sets_have_no_bootstrap_interval(compare_dir):
    path = compare_dir / "P-0" / "result.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"num_test": 999}))  # the same packed bytes
    difference = compare_rows(load_compare(compare_dir), "P", "float")
    assert difference is not None
    assert difference.interval is not None
    assert difference.bootstrap is None


def test_numbers_read_as_in_a_paper():
    assert format_bytes(24_840) == "24.8 kB"
    assert format_bytes(999) == "999 B"
    assert format_count(12_500_000) == "12.5M"
    assert format_microseconds(147.2) == "147 µs"
    assert format_microseconds(12_345) == "12.3 ms"
    assert format_score(Summary(0.8312, 0.0025, None, 2), ACCURACY) == "83.12 ± 0.25"
    difference = Difference(-0.003, (-0.0072, 0.0012), None, 3)
    assert format_difference(difference, ACCURACY) == "-0.30 [-0.72, 0.12]"
