"""Rows judged by another metric than the accuracy."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest

from compress.report import load_compare, pack_items, render_table, score_text
from compress.report.charts import size_figure
from compress.report.claim_texts import claim_sentence
from compress.report.claims import findings
from compress.report.items import unpack_items
from compress.report.metric import MetricRecord
from compress.report.notes import summary_sentences
from compress.report.rows import compare_rows, summarize_rows

LOSS = MetricRecord("loss", "nats", 1.0, higher_is_better=False)
COSINE = MetricRecord("cosine", "", 1.0)
MEANS = {"float": 1.50, "P": 1.62, "PTQ": 1.505, "P+Q": 1.63}


def points_of(plot):
    """The rows of a scatter plot; lines of equal size have data of their own."""
    layers = (layer["data"]["values"] for layer in plot.wide["layer"])
    return next(values for values in layers if "row" in values[0])


def judge_by(compare_dir, metric):
    """The made-up comparison, with `metric` and its numbers instead of accuracies."""
    for path in compare_dir.glob("*/result.json"):
        result = json.loads(path.read_text())
        rng = np.random.default_rng([result["seed"], len(result["row"])])
        shared = np.random.default_rng(result["seed"]).normal(size=result["num_test"])
        items = MEANS[result["row"]] + 0.3 * shared + 0.02 * rng.normal(size=1000)
        items = items.astype(np.float32)
        score = float(items.mean(dtype=np.float64))
        del result["correct"]
        result |= {"metric": dataclasses.asdict(metric), **pack_items(items)}
        result |= {"score": score, "trained_score": score, "extras": {"recall": 0.5}}
        path.write_text(json.dumps(result))
    return compare_dir


def test_items_come_back_as_they_were_packed():
    values = np.random.default_rng(0).normal(size=13).astype(np.float32)
    for items in (values, values > 0):
        back = unpack_items(json.loads(json.dumps(pack_items(items))), 13)
        assert back.dtype == items.dtype
        np.testing.assert_array_equal(back, items)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [({"per_example": "AAAA"}, "needs 52"), ({}, "missing correct, or per_example")],
)
def test_items_that_are_not_there_or_too_few_are_refused(entry, reason):
    with pytest.raises(ValueError, match=reason):
        unpack_items(entry, 13)


def test_scores_read_as_their_unit_asks():
    assert score_text(0.98333, dataclasses.asdict(MetricRecord())) == "98.33 %"
    assert score_text(0.98765, dataclasses.asdict(COSINE)) == "0.9877"
    text = score_text(1.5321, dataclasses.asdict(LOSS))
    assert text == "1.5321 nats (perplexity 4.628)"
    assert (MetricRecord().heading, LOSS.heading) == ("Accuracy %", "Loss, nats")
    assert MetricRecord().shown(-0.00001) == "0.00"


def test_a_loss_has_its_perplexity_and_extras_beside_it(compare_dir):
    comparison = load_compare(judge_by(compare_dir, LOSS))
    text = render_table(comparison)
    assert text.splitlines()[0].startswith(
        "| Row | Loss, nats | Δ to float | Perplexity | Recall |"
    )
    assert "lower is better, so a positive difference is a loss" in text
    lines = render_table(comparison, style="csv")
    row = next(r for r in csv.DictReader(io.StringIO(lines)) if r["row"] == "float")
    scores = [cell.score for cell in comparison.cells_of("float")]
    assert float(row["score_mean"]) == pytest.approx(np.mean(scores))
    assert float(row["perplexity_mean"]) == pytest.approx(np.exp(scores).mean())
    assert (row["metric"], row["recall_mean"]) == ("loss", "0.5")


@pytest.mark.parametrize(
    ("metric", "best", "not_worse"),
    [
        (LOSS, "Lowest loss: float", False),
        (COSINE, "Highest cosine: P+Q", True),
    ],
)
def test_what_is_better_decides_the_summary(compare_dir, metric, best, not_worse):
    comparison = load_compare(judge_by(compare_dir, metric))
    sentences = " ".join(summary_sentences(comparison, summarize_rows(comparison)))
    assert best in sentences
    worse_row = "not measurably worse than float: PTQ"
    assert (worse_row in sentences) == not_worse


@pytest.mark.parametrize(
    ("metric", "front"), [(LOSS, {"float", "PTQ"}), (COSINE, {"P+Q"})]
)
def test_the_front_knows_which_way_is_better(compare_dir, metric, front):
    comparison = load_compare(judge_by(compare_dir, metric))
    sizes = size_figure(comparison, summarize_rows(comparison))
    dense = next(plot for plot in sizes.plots if plot.view == "dense")
    values = points_of(dense)
    assert {value["row"] for value in values if value["front"]} == front
    assert sizes.caption.startswith("Up and" if metric.higher_is_better else "Down and")


def test_a_difference_of_losses_has_its_unit_and_both_intervals(compare_dir):
    comparison = load_compare(judge_by(compare_dir, LOSS))
    difference = compare_rows(comparison, "P", "float")
    assert difference is not None and difference.bootstrap is not None
    low, high = difference.bootstrap
    assert low < difference.mean < high and high - low < 0.02
    (found,) = findings(comparison, ["P - float"])
    sentence = claim_sentence(found, comparison.metric)
    assert sentence.startswith(f"P - float: {difference.mean:+.4f} nats [")
    assert "differ: P is " in sentence


def test_a_run_with_another_metric_is_a_failed_one(compare_dir):
    path = compare_dir / "P-1" / "result.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"metric": dataclasses.asdict(LOSS)}))
    (failed,) = load_compare(compare_dir).failed
    assert "run it again with the task as it is now" in failed.error


def test_results_and_curves_of_version_1_are_read(compare_dir):
    now = load_compare(compare_dir)
    names = {"score": "accuracy", "trained_score": "trained_accuracy"}
    for path in compare_dir.glob("*/result.json"):
        result = json.loads(path.read_text())
        old = {names.get(key, key): value for key, value in result.items()}
        old |= {"format_version": 1, "metric": "accuracy"}
        path.write_text(json.dumps(old))
        log = path.with_name("metrics.jsonl")
        log.write_text(log.read_text().replace("eval_score", "eval_accuracy"))
    assert render_table(load_compare(compare_dir)) == render_table(now)
    assert load_compare(compare_dir).cells[0].metrics == now.cells[0].metrics
