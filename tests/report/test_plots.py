"""What the plots are made of."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.report import load_compare
from compress.report.charts import all_figures, size_figure
from compress.report.curves import MAX_POINTS, mean_curves
from compress.report.labels import Box, overlap, place_labels, text_box
from compress.report.pareto import pareto_front
from compress.report.rows import summarize_rows
from compress.report.scales import log_ticks

POINTS = st.lists(
    st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12
)


@given(POINTS)
def test_front_is_every_point_that_no_other_beats(points):
    costs, values = zip(*points, strict=True)
    front = {points[i] for i in pareto_front(costs, values)}
    beaten = {
        p
        for p, q in itertools.product(points, points)
        if q[0] <= p[0] and q[1] >= p[1] and q != p
    }
    assert front == set(points) - beaten


def test_front_is_in_order_of_cost_and_rises():
    assert pareto_front([3, 1, 2, 4], [5, 1, 3, 4]) == [1, 2, 0]


def test_names_of_a_crowd_do_not_overlap():
    points = [(100.0, 100.0 + 4 * i) for i in range(10)]
    texts = ["P+D+Q"] * 10
    labels = place_labels(points, texts, width=600, height=380)
    boxes = [text_box("P+D+Q", label.x, label.y) for label in labels]
    assert all(overlap(a, b) == 0 for a, b in itertools.combinations(boxes, 2))


@given(st.floats(0, 258), st.floats(0, 380))
def test_name_of_one_point_stays_inside_the_plot_and_near_it(x, y):
    (label,) = place_labels([(x, y)], ["base+budget"], width=258, height=380)
    box = text_box("base+budget", label.x, label.y)
    inside = overlap(box, Box(0, 0, 258, 380))
    assert inside == pytest.approx((box.right - box.left) * (box.bottom - box.top))
    assert math.dist((label.line_x, label.line_y), (x, y)) < 40


@given(st.floats(1e-2, 1e7), st.floats(1.3, 1e4))
def test_log_ticks_are_inside_and_apart(low, factor):
    ticks = log_ticks(low, low * factor, 600)
    assert all(low <= tick <= low * factor for tick in ticks)
    pixels = 600 / math.log(factor)
    gaps = [math.log(b / a) * pixels for a, b in itertools.pairwise(ticks)]
    assert all(gap >= 44 for gap in gaps)
    if factor > 2.5:
        assert ticks


def test_curve_is_the_mean_over_seeds_in_few_points(compare_dir):
    comparison = load_compare(compare_dir)
    points = [p for p in mean_curves(comparison, "sparsity") if p["row"] == "P"]
    assert len(points) <= MAX_POINTS
    assert all(point["num_seeds"] == 3 for point in points)
    assert points[-1]["value"] == pytest.approx(0.8)
    assert [p["step"] for p in points] == sorted(p["step"] for p in points)


def test_values_that_are_not_finite_are_left_out(compare_dir):
    for seed in range(3):
        path = compare_dir / f"P-{seed}" / "metrics.jsonl"
        path.write_text('{"step": 0, "loss": 1.0}\n{"step": 1, "loss": NaN}\n')
    points = [p for p in mean_curves(load_compare(compare_dir), "loss")]
    assert [p["step"] for p in points if p["row"] == "P"] == [0]


def test_specifications_are_valid_vega_lite(report):
    altair = pytest.importorskip("altair")
    comparison = load_compare(report.html.parents[1])
    for figure in all_figures(comparison, summarize_rows(comparison)):
        for plot in figure.plots[:1]:
            altair.LayerChart.from_dict(plot.wide)  # validates
            altair.LayerChart.from_dict(plot.narrow)


def test_scatter_names_every_row_and_marks_the_front(compare_dir):
    comparison = load_compare(compare_dir)
    sizes = size_figure(comparison, summarize_rows(comparison))
    assert sizes.plots[0].view == "file"
    layers = (layer["data"]["values"] for layer in sizes.plots[0].wide["layer"])
    values = next(values for values in layers if "row" in values[0])
    assert [value["row"] for value in values] == list(comparison.rows)
    best = max(values, key=lambda value: value["score"])
    assert best["front"]
