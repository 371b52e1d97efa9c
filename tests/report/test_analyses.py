"""Fronts, lines of equal size, effects and sensitivity."""

import pytest

from compress.report import load_compare
from compress.report.analyses import effects_figure, sensitivity_figure
from compress.report.effects import effects
from compress.report.guides import join_boxes, size_joins, size_levels
from compress.report.metric import MetricRecord
from compress.report.pareto import packed_bytes, unbeaten
from compress.report.records import LatencyRecord
from compress.report.rows import RowSummary
from compress.report.stats import summarize

LOSS = MetricRecord("loss", "nats", 1.0, higher_is_better=False)


def row(name, score, size, ratio=None, packed=None):
    latency = {}
    if ratio is not None:
        latency[1] = LatencyRecord(100.0, (99.0, 101.0), 2.0, ratio, ratio, 1)
    sizes = {"file": size, "bitmask": packed or 2 * size, "float": 1600}
    return RowSummary(name, score=summarize([score]), sizes=sizes, latency=latency)


def drawn(plot):
    return plot.wide["data"]["values"]


def standing(rows, metric=MetricRecord(), batches=(1,)):
    return unbeaten(rows, metric, batches)


def test_a_row_is_beaten_by_one_as_good_in_all_and_better_in_one():
    rows = [
        row("best", 0.9, 400, 0.5),
        row("as good", 0.9, 400, 0.5),
        row("larger", 0.9, 401, 0.5),
        row("worse", 0.89, 400, 0.5),
        row("small", 0.5, 100, 0.5),
        row("fast", 0.4, 500, 0.3),
        row("hardly faster", 0.45, 450, 0.49),
    ]
    assert standing(rows) == {"best", "as good", "small", "fast"}


def test_a_row_that_was_not_timed_is_as_slow_as_can_be():
    rows = [row("timed", 0.9, 400, 9.0), row("not timed", 0.9, 300)]
    assert standing(rows) == {"timed", "not timed"}
    assert standing(rows, batches=()) == {"not timed"}


def test_a_lower_loss_is_better():
    rows = [row("low", 1.0, 400, 1.0), row("high", 1.1, 400, 1.0)]
    assert standing(rows, LOSS) == {"low"}


def test_zeros_are_packed_away_where_that_makes_a_row_smaller():
    assert packed_bytes(row("dense", 0.9, 400)) == 400
    assert packed_bytes(row("pruned", 0.9, 400, packed=120)) == 120


def test_levels_are_halves_of_the_largest_float_network():
    levels = size_levels([row("a", 0.9, 400), row("b", 0.8, 200)])
    assert [(x.cost, x.text) for x in levels[:3]] == [
        (1600, "1x"),
        (800, "2x"),
        (400, "4x"),
    ]


def test_rows_within_five_percent_of_size_are_joined_from_worst_to_best():
    rows = [
        *(row("a", 0.9, 400), row("b", 0.7, 419), row("c", 0.8, 401)),
        *(row("d", 0.9, 421), row("alone", 0.9, 100)),
    ]
    (join,) = size_joins(rows)
    assert (join.rows, join.text) == (("b", "c", "a"), "400 B")
    (box,) = join_boxes([join], {"b": (100.0, 50.0)})
    assert box.left < 100 < box.right and box.top > 50


def test_effects_are_drawn_in_shown_units_with_their_intervals(report):
    comparison = load_compare(report.html.parents[1])
    (plot,) = effects_figure(comparison).plots
    values = {value["name"]: value for value in drawn(plot)}
    found = {effect.name: effect for effect in effects(comparison)}
    assert values.keys() == found.keys() == {"P", "Q", "P x Q"}
    assert found["P"].interval is not None
    assert values["P"]["value"] == pytest.approx(100 * found["P"].mean)
    assert values["P"]["low"] == pytest.approx(100 * found["P"].interval[0])
    assert (values["P"]["group"], values["P x Q"]["group"]) == (
        "main effect",
        "interaction",
    )


def test_sensitivity_has_a_view_per_way_in_the_order_of_the_program(report):
    comparison = load_compare(report.html.parents[1])
    figure = sensitivity_figure(comparison)
    assert [plot.view for plot in figure.plots] == ["80% zeros", "int4"]
    values = drawn(figure.plots[0])
    assert [(v["name"], v["value"]) for v in values] == [
        ("stem/kernel", 0.31),
        ("head/kernel", 0.02),
    ]
    assert values[0]["text"] == "accuracy -15.50 points"
    assert "180 examples of the validation data" in figure.caption


def test_without_a_design_or_a_measurement_there_is_no_figure(compare_dir):
    comparison = load_compare(compare_dir)
    assert effects_figure(comparison).plots == ()
    assert sensitivity_figure(comparison).plots == ()


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ('{"format_version": 2}', "format_version is 2, not 1. Remove it"),
        ('{"format_version": 1}', "missing sites"),
        ('{"format_version": 1, "sites": []}', "missing row"),
        ("{", "not JSON"),
    ],
)
def test_a_damaged_measurement_is_named(compare_dir, content, remedy):
    (compare_dir / "sensitivity.json").write_text(content)
    with pytest.raises(ValueError, match=f"sensitivity.json: .*{remedy}"):
        load_compare(compare_dir)
