"""Claims and effects as tables and sentences."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from compress.report import units
from compress.report.claims import LEVEL, Finding, findings
from compress.report.effects import Effect, effects, missing_combinations
from compress.report.metric import MetricRecord
from compress.report.records import Comparison
from compress.report.stats import Interval

MANY = 5
"""More contrasts than this leave each of them little power."""

CLAIM_COLUMNS = (
    "Claim",
    "Difference",
    "Interval over seeds",
    "Over seeds and test items",
    "p",
    "p, Holm",
    "Verdict",
)
EFFECT_COLUMNS = ("Effect", "Mean", "95 % interval", "p", "Seeds")


class TextTable(NamedTuple):
    """A table of texts.

    Attributes:
      title: What it is about.
      columns: Headings.
      lines: One text per column each.
      notes: What must stand under it.
    """

    title: str
    columns: Sequence[str]
    lines: Sequence[Sequence[str]]
    notes: Sequence[str]


def text_tables(
    comparison: Comparison, contrasts: Sequence[Any] | None = None
) -> list[TextTable]:
    """The claims and the effects, as far as there are any.

    Raises:
      ValueError: If a contrast names something that is not a row.
    """
    metric, found = comparison.metric, findings(comparison, contrasts)
    claims = [claim_line(finding, metric) for finding in found]
    all_effects = effects(comparison)
    tables = [
        TextTable(
            "Claims", CLAIM_COLUMNS, claims, _how_claims_are_judged(comparison, found)
        ),
        TextTable(
            "Effects of the techniques",
            EFFECT_COLUMNS,
            [effect_line(effect, metric) for effect in all_effects],
            _how_effects_are_read(comparison, all_effects),
        ),
    ]
    return [table for table in tables if table.lines or table.notes]


def claim_line(finding: Finding, metric: MetricRecord) -> list[str]:
    """A finding as a line of a table, under `CLAIM_COLUMNS`."""
    found = finding.difference
    percent = f"{100 * finding.confidence:.0f} %"
    return [
        claim_text(finding, metric),
        _points(found.mean if found else None, metric),
        _interval(found.interval if found else None, metric, f" ({percent})"),
        _interval(found.bootstrap if found else None, metric),
        format_p(finding.p),
        format_p(finding.adjusted_p),
        verdict_text(finding, metric),
    ]


def effect_line(effect: Effect, metric: MetricRecord) -> list[str]:
    """An effect as a line of a table, under `EFFECT_COLUMNS`."""
    return [
        effect.name,
        _points(effect.mean, metric),
        _interval(effect.interval, metric),
        format_p(effect.p),
        str(effect.num_seeds),
    ]


def claim_sentence(finding: Finding, metric: MetricRecord) -> str:
    """`PQ - QP: +0.30 points [-0.10, 0.70] over 3 seeds, p = 0.08: within noise`."""
    claim, found = claim_text(finding, metric), finding.difference
    verdict = verdict_text(finding, metric)
    if found is None:
        return f"{claim}: {verdict}"
    points = f"{_points(found.mean, metric)} {metric.points}".strip()
    if found.interval is None:
        return f"{claim}: {points} over 1 seed: {verdict}"
    interval = units.format_interval(found.interval, metric)
    over_items = ""
    if found.bootstrap:
        text = units.format_interval(found.bootstrap, metric)
        over_items = f" (over seeds and test items: {text})"
    return (
        f"{claim}: {points} {interval} over {found.num_seeds} seeds, "
        f"p = {format_p(finding.p)}, {format_p(finding.adjusted_p)} by Holm: "
        f"{verdict}{over_items}"
    )


def claim_text(finding: Finding, metric: MetricRecord) -> str:
    """`PTQ = baseline within 0.5 points`."""
    contrast = finding.contrast
    if contrast.margin is None:
        return contrast.text
    return f"{contrast.text} within {_margin(finding, metric)}"


def verdict_text(finding: Finding, metric: MetricRecord) -> str:
    """`holds: PQD is better than PQ`."""
    contrast, found, verdict = finding.contrast, finding.difference, finding.verdict
    if found is None:
        return "not known, no seed finished in both"
    if verdict == "not known":
        return "not known, one seed has no interval"
    if verdict == "within noise" and contrast.margin is not None:
        return f"within noise: {_margin(finding, metric)} or more is not excluded"
    if verdict == "within noise":
        return verdict
    word = "differ" if contrast.relation == "-" else verdict
    return f"{word}: {_said(finding, metric)}"


def _said(finding: Finding, metric: MetricRecord) -> str:
    """What is known when a claim holds or is refuted."""
    contrast, found = finding.contrast, finding.difference
    row, other, relation = contrast.row, contrast.other, contrast.relation
    assert found is not None
    better = "better" if metric.merit(found.mean) > 0 else "worse"
    if relation in ("-", ">"):
        return f"{row} is {better} than {other}"
    margin = _margin(finding, metric)
    if finding.verdict == "refuted":
        return f"{row} is {better} than {other} by more than {margin}"
    if relation == ">=":
        return f"{row} is not worse than {other} by {margin}"
    return f"{row} and {other} differ by less than {margin}"


def claim_notes(
    comparison: Comparison, contrasts: Sequence[Any] | None = None
) -> list[str]:
    """Claims and effects as sentences, where there is no room for tables."""
    metric, found = comparison.metric, findings(comparison, contrasts)
    all_effects = effects(comparison)
    return [
        *(claim_sentence(finding, metric) for finding in found),
        *_how_claims_are_judged(comparison, found),
        *(effect_sentence(effect, metric) for effect in all_effects),
        *_how_effects_are_read(comparison, all_effects),
    ]


def effect_sentence(effect: Effect, metric: MetricRecord) -> str:
    """`effect of P x Q: -0.30 points [-0.72, 0.12]`."""
    points = f"{_points(effect.mean, metric)} {metric.points}".strip()
    interval = _interval(effect.interval, metric) if effect.interval else "one seed"
    return f"effect of {effect.name}: {points} {interval}"


def _how_claims_are_judged(
    comparison: Comparison, found: Sequence[Finding]
) -> list[str]:
    """How verdicts are made, and a warning where there are many."""
    if not found:
        return []
    num_tested = sum(finding.p is not None for finding in found)
    notes = [
        f"{_when_declared(comparison, found)} A claim holds, or is refuted, if the t "
        "interval over seeds says so, and the bootstrap interval over seeds and test "
        f"items, and p after Holm's correction for {num_tested} is at most {LEVEL:g}; "
        "else it is within noise, which does not mean that the rows are equal. Claims "
        "with a margin are two one-sided tests (TOST) with 90 % intervals."
    ]
    if len(found) > MANY:
        notes.append(
            f"{len(found)} contrasts: the correction costs each of them power. Up to "
            f"{MANY} that were chosen beforehand say more."
        )
    return notes


def _when_declared(comparison: Comparison, found: Sequence[Finding]) -> str:
    """Whether the claims came before the results."""
    if not comparison.declared_after:
        return "When the claims were declared is not recorded."
    after = dict(zip(comparison.contrasts, comparison.declared_after))
    counts = {f.contrast.text: after.get(f.contrast) for f in found}
    late = {text: count for text, count in counts.items() if count != 0}
    if not late:
        return "The claims were declared before any run had finished."
    told = [
        text if count is None else f"{text} (after {count} runs had finished)"
        for text, count in late.items()
    ]
    return (
        "Not known to be declared before results were, and so no tests of them: "
        f"{', '.join(told)}."
    )


def _how_effects_are_read(comparison: Comparison, found: Sequence[Effect]) -> list[str]:
    """How effects are to be read, or why there are none."""
    missing = missing_combinations(comparison)
    if missing:
        names = ", ".join("".join(letters) or "none of them" for letters in missing)
        return [f"Effects of techniques need a row with {names}, by order alone."]
    if not found and comparison.factors:
        return ["No effects: there is no seed that every row of the design finished."]
    if not found:
        return []
    return [
        "An effect is the mean difference with and without a technique over all "
        "combinations of the others, rows of the same techniques in other orders "
        "averaged; A x B is the effect of A where B is, minus where B is not. "
        "Intervals are Student's t over seeds; p is not corrected."
    ]


def format_p(p: float | None) -> str:
    """`0.032`, `< 0.0001`."""
    if p is None:
        return units.MISSING
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def _margin(finding: Finding, metric: MetricRecord) -> str:
    margin = finding.contrast.margin
    unit = "point" if (margin, metric.points) == (1, "points") else metric.points
    return f"{margin:g} {unit}".strip()


def _points(value: float | None, metric: MetricRecord) -> str:
    return units.MISSING if value is None else metric.shown(value, "+")


def _interval(interval: Interval | None, metric: MetricRecord, remark: str = "") -> str:
    if interval is None:
        return units.MISSING
    return units.format_interval(interval, metric) + remark
