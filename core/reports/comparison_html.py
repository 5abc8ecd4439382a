"""Write a comparison of benchmark runs as one HTML file with interactive charts."""

from collections.abc import Mapping, Sequence

from core import units
from core.bench.results.comparison import (
    FIGURE_NAMES,
    Comparison,
    Difference,
    change_text,
    figure_text,
    known_figures,
)
from core.charts.comparison import CURVES, LETTERS, change_chart, load_chart, looks, point_name
from core.i18n import _, ngettext
from core.reports.page import render


def comparison_html(comparison: Comparison, lane_colors: Mapping[str, str]) -> str:
    """The whole page; `lane_colors` has a colour for every lane of the runs."""
    styles = looks(comparison, lane_colors)
    known = known_figures(comparison)
    number = len(comparison.runs)
    return render(
        "comparison",
        title=ngettext("{n} benchmark run compared", "{n} benchmark runs compared", number),
        charts=[
            *(load_chart(comparison, curve, styles) for curve in CURVES.values()),
            *(change_chart(comparison, name, styles) for name in known),
        ],
        texts={
            "runs": _("Runs"),
            "settings": _("Settings that differ"),
            "environment": _("Environment that differs"),
            "intervals": _(
                "Brackets: 95% confidence interval of the change (means, and speeds over repeats). "
                "Percentiles have "
                "no interval."
            ),
        },
        runs=_runs(comparison),
        warnings=[_(warning) for warning in comparison.warnings],
        letters=LETTERS[:number],
        tables=[{"title": _(FIGURE_NAMES[name]), "rows": _figure_rows(comparison, name)} for name in known],
        settings=_differences(comparison.settings),
        environment=_differences(comparison.environment),
    )


def _runs(comparison: Comparison) -> list[tuple[str, ...]]:
    return [
        (
            LETTERS[place],
            result.run.title,
            ", ".join(lane.name for lane in result.plan.lanes),
            f"{result.run.created_at:%Y-%m-%d %H:%M} UTC",
            result.run.machine.host if result.run.machine else units.UNKNOWN,
            result.run.id,
            _("baseline") if place == comparison.baseline else "",
        )
        for place, result in enumerate(comparison.runs)
    ]


def _figure_rows(comparison: Comparison, figure: str) -> list[tuple[str, list[str]]]:
    rows = []
    for point in comparison.points:
        changes = point.change_ratios(figure, comparison.baseline)
        intervals = point.change_intervals(figure, comparison.baseline)
        cells = [
            figure_text(figure, value)
            if place == comparison.baseline or changes[place] is None
            else _(
                "{value} {change}",
                value=figure_text(figure, value),
                change=change_text(changes[place], intervals[place]),
            )
            for place, value in enumerate(point.values(figure))
        ]
        rows.append((point_name(point), cells))
    return rows


def _differences(rows: Sequence[Difference]) -> list[tuple[str, ...]]:
    return [(row.path, *row.values) for row in rows]
