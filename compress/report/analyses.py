"""Figures of what techniques do on average, and of what each parameter bears."""

from collections.abc import Sequence

from compress.report.effects import effects
from compress.report.figure import NARROW, WIDE, Figure, Plot
from compress.report.intervals import Entry, interval_spec
from compress.report.metric import MetricRecord
from compress.report.records import Comparison, Sensitivity

_ORDERS = ("main effect", "interaction", "higher interaction")


def effects_figure(comparison: Comparison) -> Figure:
    """Main effects and interactions with their intervals, if there is a design."""
    metric = comparison.metric
    entries = [
        Entry(
            effect.name,
            metric.scale * effect.mean,
            _scaled(effect.interval, metric),
            _ORDERS[min(len(effect.factors), 3) - 1],
            f"{effect.num_seeds} seeds",
        )
        for effect in effects(comparison)
    ]
    axis = f"change of {metric.name}, {metric.points}".rstrip(", ")
    better = "Right" if metric.higher_is_better else "Left"
    return Figure(
        "effects",
        "Effects with their intervals",
        f"{better} of zero is better. A main effect is the mean difference with and "
        "without a technique, an interaction what two together do beyond their sum; "
        "thick lines are 95 % intervals over seeds.",
        _plots([("effects", "Effects of the techniques", "", axis, entries)]),
    )


def sensitivity_figure(comparison: Comparison) -> Figure:
    """What it costs to compress each parameter alone, a view per way to do it."""
    measured = comparison.sensitivity
    views = [] if measured is None else _views(measured, comparison.metric)
    caption = ""
    if measured is not None:
        caption = (
            f"Each parameter of {measured.row}, seed {measured.seed}, compressed alone "
            "and at once, without further training; the loss is over "
            f"{measured.num_examples} examples of the {measured.sample} data."
        )
    title = "Sensitivity of each parameter"
    return Figure("sensitivity", title, caption, _plots(views))


_View = tuple[str, str, str, str, Sequence[Entry]]  # name, title, view, axis, entries


def _views(measured: Sensitivity, metric: MetricRecord) -> list[_View]:
    ways = dict.fromkeys(way for site in measured.sites for way in site.costs)
    views = []
    for index, way in enumerate(ways):
        entries = [
            Entry(
                site.name,
                site.costs[way]["loss"],
                None,
                way,
                f"{metric.name} {metric.shown(site.costs[way]['score'], '+')} "
                f"{metric.points}".rstrip(),
            )
            for site in measured.sites
            if way in site.costs
        ]
        title = f"Sensitivity of each parameter: {way}"
        axis = "increase of the loss"
        views.append((f"sensitivity_{index}", title, way, axis, entries))
    return views


def _scaled(
    interval: tuple[float, float] | None, metric: MetricRecord
) -> tuple[float, float] | None:
    if interval is None:
        return None
    return metric.scale * interval[0], metric.scale * interval[1]


def _plots(views: Sequence[_View]) -> tuple[Plot, ...]:
    return tuple(
        Plot(
            name,
            title,
            view,
            wide=interval_spec(entries, title=axis, width=WIDE[0], is_wide=True),
            narrow=interval_spec(entries, title=axis, width=NARROW[0], is_wide=False),
        )
        for name, title, view, axis, entries in views
        if entries
    )
