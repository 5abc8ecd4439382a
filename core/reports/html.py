"""Runs and sessions as HTML files that need no network, with tables and interactive charts.

There are pages of a benchmark run, of a comparison of several, of a quality run, of a walk and of a session's
results. They are in the current language, and Jinja2 escapes what people and models wrote. plotly's own
script is part of a page with charts, once: 4 to 5 MB.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from core import units
from core.bench.passes import described
from core.bench.results.comparison import (
    FIGURE_NAMES,
    Comparison,
    Difference,
    change_text,
    figure_text,
    known_figures,
)
from core.bench.results.definitions import DEFINITIONS
from core.bench.results.points import BEFORE_SENDING, IN_THE_ENGINE
from core.bench.results.result import BenchResult
from core.bench.results.tables import (
    LATENCIES,
    distributions_table,
    few_requests_note,
    points_table,
    queueing_table,
    remarks,
    repeats_table,
    resources_table,
)
from core.charts.colors import lane_color
from core.charts.comparison import (
    CURVES,
    LETTERS,
    change_chart,
    failures_chart,
    interference_chart,
    load_chart,
    looks,
    point_name,
    speed_up_chart,
)
from core.charts.load import THROUGHPUTS, Colors, latency_chart, pareto_chart, throughput_chart
from core.charts.quality import StrengthBar, difference_chart, prefix_chart, strengths_chart, trade_off_chart
from core.charts.quality_points import (
    AREA_NAMES,
    RIGHT_ANSWERS,
    Area,
    differences,
    measures,
    prefix_curves,
    trade_off_points,
)
from core.charts.requests import gaps_chart, timeline_chart
from core.domain.runs import BenchRecord, QualityRecord
from core.domain.sessions import SessionRecord
from core.domain.walk import STATE_NAMES, STEP_TEXTS, StepResult, WalkRun
from core.i18n import _, current_language, ngettext
from core.quality.results import LaneQuality, Outcome, QualityResult, Role
from core.quality.verdict import compared_answers, flags, verdicts
from core.sessions import telling
from core.sessions.items import set_label
from core.sessions.results import compute_results, judge_results
from core.sessions.statistics import Standings
from core.sessions.telling import lane_figures
from core.walk.job import summary

TIMELINE_REQUESTS = 400
"""A timeline of more would be a block of one colour."""
_WORST = 20
"""Different answers of each lane that the file shows."""


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
    return _render(
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
    return _render(
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


def quality_html(
    result: QualityResult, record: QualityRecord, colors: Mapping[str, str] | None = None
) -> str:
    """The whole page. Without `colors` of the lanes they follow the plan's order."""
    names = [lane.name for lane in result.lanes]
    return _render(
        "quality",
        title=result.run.title,
        charts=_quality_figures(result, colors or {name: lane_color(name, names) for name in names}),
        texts={"flags": _("Differences between the lanes")},
        circumstances=_quality_circumstances(result),
        verdicts=[
            (_(verdict.sentence), " ".join(_(reason) for reason in verdict.reasons))
            for verdict in verdicts(result)
        ],
        lanes=_quality_lanes(result),
        flags=[flag.text for flag in flags(result)],
        answers=_answers(result, record),
    )


def _quality_circumstances(result: QualityResult) -> list[str]:
    run, plan = result.run, result.plan
    facts = [
        f"{run.created_at:%Y-%m-%d %H:%M} UTC",
        f"LMDyno {run.lmdyno}",
        *([run.machine.host, *run.machine.gpus] if run.machine else []),
        _("Reference: {lane}", lane=plan.reference),
        _("Greedy, one request at a time"),
        _("State: {state}", state=run.state.value),
    ]
    return [fact for fact in facts if fact]


def _quality_lanes(result: QualityResult) -> dict[str, Any]:
    texts = [text.name for text in result.plan.texts]
    head = [
        _("lane"),
        _("correct"),
        _("95% interval"),
        _("unanswered, cut off, failed"),
        _("same answers"),
        _("same tokens"),
        *(_("{text}, nats per token", text=name) for name in texts),
        *(_("{text}, perplexity", text=name) for name in texts),
        _("TTFT p50"),
        _("decode p50"),
        _("memory"),
        _("energy per token"),
    ]
    return {"head": head, "rows": [_cells(lane, texts) for lane in result.lanes]}


def _cells(lane: LaneQuality, texts: Sequence[str]) -> list[str]:
    tasks, agreement = lane.tasks, lane.agreement
    interval = tasks.interval if tasks else None
    known = [lane.text(name) for name in texts]
    outcomes = tasks.outcomes if tasks else {}
    others = (Outcome.UNANSWERED, Outcome.CUT_OFF, Outcome.FAILED)
    return [
        lane.name,
        f"{tasks.outcomes[Outcome.RIGHT]} / {tasks.asked}" if tasks else units.UNKNOWN,
        f"{units.share(interval.low)} – {units.share(interval.high)}" if interval else units.UNKNOWN,
        ", ".join(str(outcomes[kind]) for kind in others) if outcomes else units.UNKNOWN,
        f"{agreement.identical} / {agreement.n}" if agreement else units.UNKNOWN,
        units.share(agreement.token_ratio if agreement else None),
        *(units.nats(text.nats_per_token if text else None) for text in known),
        *(f"{text.perplexity:.2f}" if text and text.perplexity else units.UNKNOWN for text in known),
        units.milliseconds(lane.ttft_p50_s),
        units.tok_per_s(lane.decode_tok_per_s_p50),
        units.gib(lane.memory_bytes),
        units.joules(lane.energy_j_per_token),
    ]


def _quality_figures(result: QualityResult, colors: Mapping[str, str]) -> list[go.Figure]:
    figures = [
        trade_off_chart(
            trade_off_points(result, measure, Area.MEMORY),
            colors,
            quality=measure if measure != RIGHT_ANSWERS else _("Correct answers"),
            size=_(AREA_NAMES[Area.MEMORY]),
            is_share=measure == RIGHT_ANSWERS,
        )
        for measure in measures(result)
    ]
    figures += [
        difference_chart(chart.rows, colors, title=_(chart.title), noise=chart.noise, is_share=chart.is_share)
        for chart in differences(result)
    ]
    if curves := prefix_curves(result):
        figures.append(prefix_chart(curves, colors))
    return figures


def _answers(result: QualityResult, record: QualityRecord) -> list[dict[str, Any]]:
    """A table for each lane that answers differently: the questions, and both answers."""
    tables = []
    for lane in result.lanes:
        if lane.role is Role.REFERENCE:
            continue
        answers = [
            compared for compared in compared_answers(result, record, lane.name) if not compared.identical
        ]
        if answers:
            tables.append(
                {
                    "title": _("Different answers: {lane}", lane=lane.name),
                    "head": [_("Question"), result.reference.name, lane.name],
                    "rows": [
                        (answer.question, answer.reference.text, answer.answer.text)
                        for answer in answers[:_WORST]
                    ],
                }
            )
    return tables


def walk_html(run: WalkRun) -> str:
    """The whole page, in the current language."""
    machine = run.machine
    circumstances = [
        f"{run.created_at:%Y-%m-%d %H:%M} UTC",
        f"LMDyno {run.lmdyno}",
        *((machine.host, *machine.gpus, machine.cpu or "") if machine else ()),
        summary(run),
    ]
    return _render(
        "walk",
        title=_(run.title),
        circumstances=[text for text in circumstances if text],
        texts={
            "step": _("Step"),
            "state": _("State"),
            "time": _("Time"),
            "by_hand": _("Do it manually"),
            "answers": _("Answers"),
        },
        steps=[_step(number, step) for number, step in enumerate(run.steps, start=1)],
    )


def _step(number: int, step: StepResult) -> dict[str, object]:
    text = STEP_TEXTS[step.kind]
    lines = [_(note) for note in step.notes]
    if step.reason:
        lines.append(_(step.reason))
    if step.error:
        lines.append(_("{problem} {hint}", problem=_(step.error.message), hint=_(step.error.hint)))
    return {
        "title": _("{number}. {step}", number=number, step=_(text.title)),
        "meaning": _(text.meaning),
        "state": _(STATE_NAMES[step.state]),
        "time": units.duration(step.duration_s) if step.duration_s else units.UNKNOWN,
        "lines": lines,
        "figures": [(_(figure.label), figure.text) for figure in step.figures],
        "answers": [(_(answer.who), answer.prompt, answer.text) for answer in step.answers],
        "by_hand": step.by_hand,
    }


def session_html(record: SessionRecord, lane_colors: Mapping[str, str]) -> str:
    """The whole page; `lane_colors` has a colour for every lane. Participants are counted, not named."""
    session = record.session
    results = compute_results(session, record.votes)
    names = telling.lane_names(session)
    sections = [
        (_("Standings"), telling.standings_table(results.standings, names)),
        (_("Pairs"), telling.pairs_table(results.standings, names)),
        (_("Who was preferred to whom"), telling.win_matrix(results.standings, names)),
        (_("Measurements"), telling.figures_table(lane_figures(session, record.answers), names)),
    ]
    if results.categories:
        sections.append((_("By category"), telling.groups_table(results.categories, names, _("Category"))))
    if results.languages:
        sections.append((_("By language"), telling.groups_table(results.languages, names, _("Language"))))
    return _render(
        "session",
        title=session.plan.title,
        charts=_standings_chart(names, results.standings, lane_colors),
        purpose=session.plan.purpose,
        headline=telling.headline(session, results.standings),
        facts=[
            f"{session.created_at:%Y-%m-%d %H:%M} UTC",
            *telling.turnout(results),
            _(set_label(session.plan.prompts)),
            *([session.machine.host] if session.machine else []),
        ],
        note=_(telling.STRENGTHS_NOTE),
        sections=sections,
        checks=telling.checks(session, results),
        judges=[
            (
                result.judge,
                telling.standings_table(result.standings, names),
                telling.judge_lines(session, result),
            )
            for result in judge_results(session, record.judgements, record.votes)
        ],
    )


def _standings_chart(
    names: list[str], standings: Standings, colors: Mapping[str, str]
) -> tuple[go.Figure, ...]:
    """Empty if no lane has points."""
    bars = [
        StrengthBar(
            lane=names[lane.lane],
            points=lane.points,
            low=lane.low,
            high=lane.high,
            text=telling.rank_text(lane, standings),
        )
        for lane in standings.lanes
        if lane.points is not None
    ]
    if not bars:
        return ()
    return (strengths_chart(bars, colors, title=_("Rating in points, with 95% intervals")),)


def _render(template: str, *, title: str, charts: Sequence[go.Figure] = (), **values: object) -> str:
    """The page of a template in `core/reports/templates`, in the current language; every value is escaped."""
    return (
        _environment()
        .get_template(f"{template}.html.j2")
        .render(
            title=title,
            language=current_language().tag,
            plotly=get_plotlyjs() if charts else "",
            charts=[_chart_html(chart) for chart in charts],
            **values,
        )
    )


def _chart_html(figure: go.Figure) -> str:
    config: dict[str, Any] = {
        "displaylogo": False,
        "responsive": True,
        "toImageButtonOptions": {"format": "svg"},
    }
    html: str = pio.to_html(figure, include_plotlyjs=False, full_html=False, config=config)
    return html


@cache
def _environment() -> Environment:
    """The templates of all reports: every value is escaped, and `_` translates."""
    templates = Environment(
        loader=PackageLoader("core.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals["_"] = _
    return templates
