"""Write a benchmark run, or a comparison of runs, as one HTML file with tables and interactive charts."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from core import units
from core.bench.planning.wording import described
from core.bench.results.comparison import (
    FIGURE_NAMES,
    Comparison,
    Difference,
    change_text,
    figure_text,
    known_figures,
)
from core.bench.results.definitions import DEFINITIONS
from core.bench.results.notes import BEFORE_SENDING, IN_THE_ENGINE
from core.bench.results.remarks import remarks
from core.bench.results.result import BenchResult
from core.bench.results.tables import (
    LATENCIES,
    distributions_table,
    few_requests_note,
    points_table,
    queueing_table,
    repeats_table,
    resources_table,
)
from core.charts.colors import lane_color
from core.charts.comparison import CURVES, LETTERS, change_chart, load_chart, looks, point_name
from core.charts.load import THROUGHPUTS, Colors, latency_chart, pareto_chart, throughput_chart
from core.charts.load_bars import failures_chart, interference_chart, speed_up_chart
from core.charts.requests import gaps_chart, timeline_chart
from core.domain.bench import BenchRecord
from core.i18n import _, ngettext
from core.reports.page import render

TIMELINE_REQUESTS = 400
"""A timeline of more would be a block of one colour."""


def report_html(result: BenchResult, record: BenchRecord, colors: Colors | None = None) -> str:
    """The whole page. Without `colors` of the lanes they follow the plan's order."""
    known = [lane.name for lane in result.plan.lanes]
    tables = (
        points_table(result),
        queueing_table(result),
        distributions_table(result),
        repeats_table(result),
        resources_table(result),
    )
    return render(
        "run",
        title=result.run.title,
        charts=_charts(result, record, colors or {name: lane_color(name, known) for name in known}),
        texts={
            "plan": _("Plan"),
            "faint": few_requests_note(),
            "definitions": _("Definitions ({tool})", tool=DEFINITIONS[result.tool].title),
            "lanes": _("Lanes"),
        },
        circumstances=_circumstances(result),
        remarks=remarks(result),
        plan=[(fact.label, fact.text) for fact in described(result.plan)],
        tables=[table for table in tables if table is not None],
        definitions=_definitions(result),
        lanes=_lanes(result),
    )


def _charts(result: BenchResult, record: BenchRecord, colors: Colors) -> list[go.Figure]:
    figures = [
        *(
            latency_chart(result, name, colors)
            for name, latency_of in LATENCIES.items()
            if any(latency_of(point) is not None for point in result.points)
        ),
        *(
            throughput_chart(result, name, colors)
            for name, (_title, _unit, value_of) in THROUGHPUTS.items()
            if any(value_of(point) is not None for point in result.points)
        ),
        pareto_chart(result, colors),
        gaps_chart(
            record.requests, colors, definition=DEFINITIONS[result.tool], subtitle=_("all loads of the run")
        ),
    ]
    if result.speed_ups:
        figures.append(speed_up_chart(result, colors))
    if result.interference:
        figures.append(interference_chart(result, colors))
    if any(point.requests.failed for point in result.points):
        figures.append(failures_chart(result))
    if record.passes and len(record.requests) <= TIMELINE_REQUESTS * len(record.passes):
        last = record.passes[-1]
        subtitle = _("{lanes}, {load}", lanes=" + ".join(last.lanes), load=last.level.label)
        figures.append(timeline_chart(last, record.requests, colors, subtitle=subtitle))
    return figures


def _circumstances(result: BenchResult) -> list[str]:
    run, plan = result.run, result.plan
    machine = run.machine
    texts = [
        f"{run.created_at:%Y-%m-%d %H:%M} UTC",
        f"LMDyno {run.lmdyno}",
        *((machine.host, *machine.gpus, machine.cpu or "") if machine else ()),
        _("seed {seed}", seed=plan.seed),
        _("state: {state}", state=_(run.state)),
    ]
    return [text for text in texts if text]


def _definitions(result: BenchResult) -> list[tuple[str, str]]:
    definition = DEFINITIONS[result.tool]
    return [
        ("TTFT", _(definition.ttft)),
        ("ITL", _(definition.itl)),
        ("TPOT", _(definition.tpot)),
        ("E2E", _(definition.e2e)),
        (_("tokens"), _(definition.tokens)),
        (_("system speed"), _(definition.throughput)),
        (_("queueing before sending"), _(BEFORE_SENDING)),
        (_("queueing in the engine"), _(IN_THE_ENGINE)),
    ]


def _lanes(result: BenchResult) -> list[tuple[str, ...]]:
    return [
        (
            facts.lane.name,
            facts.lane.kind,
            facts.engine_version or units.UNKNOWN,
            facts.device or units.UNKNOWN,
            _(facts.place.caption) if facts.place else "",
            _(facts.error.message) if facts.error else _(facts.prompts),
        )
        for facts in result.run.lanes
    ]


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
