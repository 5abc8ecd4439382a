"""Write a quality run as one HTML file: verdicts, figures, interactive charts, and the worst answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from core import units
from core.charts.colors import lane_color
from core.charts.quality import difference_chart, prefix_chart, trade_off_chart
from core.charts.quality_points import (
    AREA_NAMES,
    RIGHT_ANSWERS,
    Area,
    differences,
    measures,
    prefix_curves,
    trade_off_points,
)
from core.domain.quality import QualityRecord
from core.i18n import _
from core.quality.comparison import flags
from core.quality.results import LaneQuality, Outcome, QualityResult, Role
from core.quality.verdict import verdicts
from core.quality.worst import compared_answers
from core.reports.page import render

_WORST = 20
"""Different answers of each lane that the file shows."""


def report_html(result: QualityResult, record: QualityRecord, colors: Mapping[str, str] | None = None) -> str:
    """The whole page. Without `colors` of the lanes they follow the plan's order."""
    names = [lane.name for lane in result.lanes]
    return render(
        "quality",
        title=result.run.title,
        charts=_figures(result, colors or {name: lane_color(name, names) for name in names}),
        texts={"flags": _("Differences between the lanes")},
        circumstances=_circumstances(result),
        verdicts=[
            (_(verdict.sentence), " ".join(_(reason) for reason in verdict.reasons))
            for verdict in verdicts(result)
        ],
        lanes=_lanes(result),
        flags=[flag.text for flag in flags(result)],
        answers=_answers(result, record),
    )


def _circumstances(result: QualityResult) -> list[str]:
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


def _lanes(result: QualityResult) -> dict[str, Any]:
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


def _figures(result: QualityResult, colors: Mapping[str, str]) -> list[go.Figure]:
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
