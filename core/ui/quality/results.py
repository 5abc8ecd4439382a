"""A quality run's results: verdicts, tables and charts, then the answers one by one.

A lane's answers stand beside the reference's, the worst first.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import streamlit as st

from core import units
from core.bench.statistics import Interval
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
from core.domain.runs import ExternalScore, QualityRecord, RunKind, ScoringMethod
from core.i18n import N_, Message, _, ngettext
from core.quality.paired import Change
from core.quality.results import AgreementScore, LaneQuality, Outcome, QualityResult, Role, results
from core.quality.verdict import ComparedAnswer, Level, compared_answers, flags, verdicts
from core.reports.run_json import quality_to_json
from core.ui.shared.components import color_of, escape, lane_label, show_chart, show_error
from core.ui.shared.visitor import show_export

_ICONS = {
    Level.REFERENCE: ":material/flag:",
    Level.FAILED: ":material/error:",
    Level.UNKNOWN: ":material/help:",
    Level.SAME: ":material/check_circle:",
    Level.WORSE: ":material/trending_down:",
    Level.BETTER: ":material/trending_up:",
    Level.MIXED: ":material/compare_arrows:",
}
_COLORS = {Level.SAME: "green", Level.WORSE: "orange", Level.BETTER: "green", Level.FAILED: "red"}
_METHODS = {
    ScoringMethod.FORWARD_PASS: N_("forward pass"),
    ScoringMethod.GET_PPL: "/get_ppl",
    ScoringMethod.PROMPT_LOGPROBS: "prompt_logprobs",
}

_ANSWERS_A_PAGE = 6
_BADGES = {
    Outcome.RIGHT: ("green", ":material/check:", N_("correct")),
    Outcome.WRONG: ("red", ":material/close:", N_("wrong")),
    Outcome.UNANSWERED: ("orange", ":material/question_mark:", N_("unanswered")),
    Outcome.CUT_OFF: ("orange", ":material/content_cut:", N_("cut off")),
    Outcome.FAILED: ("gray", ":material/error:", N_("failed")),
}
_ALL, _DIFFERENT, _LOST, _WON = N_("All"), N_("Different"), N_("Lost"), N_("Won")
_FILTERS: Mapping[Message, Callable[[ComparedAnswer], bool]] = {
    _DIFFERENT: lambda answer: not answer.identical,
    _LOST: lambda answer: answer.is_lost,
    _WON: lambda answer: answer.is_won,
    _ALL: lambda _answer: True,
}


def show_results(record: QualityRecord, *, drill_down: bool) -> None:
    """The results so far; with `drill_down` the answers one by one, and the exports."""
    result = results(record)
    _show_verdicts(result)
    st.table(_table(result), border="horizontal", hide_index=True)
    st.caption(_("95% intervals: Wilson score for shares, bootstrap over sequences for differences in nats."))
    _show_texts(result)
    _show_external(result)
    show_charts(result)
    _show_flags(result)
    if any(lane.facts.device == "cpu" for lane in result.lanes):
        st.caption(_(":material/info: Measured on a CPU. Not comparable with GPU figures."))
    if drill_down:
        _show_exports(result, record)
        show_answers(result, record)


def _show_verdicts(result: QualityResult) -> None:
    for verdict in verdicts(result):
        if verdict.level is Level.REFERENCE:
            continue
        color = _COLORS.get(verdict.level, "gray")
        st.markdown(f":{color}[{_ICONS[verdict.level]}] **{escape(_(verdict.sentence))}**")
        if verdict.reasons:
            st.caption(" ".join(escape(_(reason)) for reason in verdict.reasons))


def _table(result: QualityResult) -> dict[str, list[str]]:
    texts = [text.name for text in result.plan.texts]
    table = {_("Lane"): [lane_label(lane.name) for lane in result.lanes]}
    for lane in result.lanes:
        for column, cell in lane_cells(lane, texts).items():
            table.setdefault(column, []).append(cell)
    return table


def lane_cells(lane: LaneQuality, texts: Sequence[str]) -> dict[str, str]:
    """A lane's figures by their columns."""
    agreement = lane.agreement
    return {
        _("Correct"): _right(lane),
        _("95% interval"): _interval(lane.tasks.interval if lane.tasks else None),
        _("Unanswered, cut off, failed"): _not_answered(lane),
        _("Same answers"): _same(agreement),
        _("Same tokens"): units.share(agreement.token_ratio if agreement else None),
        **{_("{text}, nats per token", text=escape(name)): _nats(lane, name) for name in texts},
        _("TTFT p50"): units.milliseconds(lane.ttft_p50_s),
        _("Decode p50"): units.tok_per_s(lane.decode_tok_per_s_p50),
        _("Memory"): units.gib(lane.memory_bytes),
        _("Energy per token"): units.joules(lane.energy_j_per_token),
    }


def _show_texts(result: QualityResult) -> None:
    """Each text by each lane: how it was scored, perplexity, and what the logits say."""
    rows = [(text, lane, lane.text(text.name)) for text in result.plan.texts for lane in result.lanes]
    known = [(text.name, lane.name, score) for text, lane, score in rows if score and score.tokens]
    if not known:
        return
    with st.expander(_("Likelihood in detail"), icon=":material/functions:"):
        st.table(
            {
                _("Text"): [escape(text) for text, _lane, _found in known],
                _("Lane"): [lane_label(lane) for _text, lane, _found in known],
                _("Method"): [_(_METHODS[score.method]) if score.method else "" for *_names, score in known],
                _("Tokens"): [units.count(score.tokens) for *_names, score in known],
                _("Nats per token"): [units.nats(score.nats_per_token) for *_names, score in known],
                _("Perplexity"): [f"{score.perplexity or 0:.2f}" for *_names, score in known],
                _("Top-1 tokens"): [units.share(score.top1_ratio) for *_names, score in known],
                _("KL divergence, nats"): [units.nats(score.kl_nats_per_token) for *_names, score in known],
            },
            border="horizontal",
            hide_index=True,
        )
        st.caption(
            _(
                "Top-1 tokens: positions where lane and reference agree on the most likely token. KL "
                "divergence: over the reference's 256 most likely tokens, with all others as one."
            )
        )


def _show_external(result: QualityResult) -> None:
    """Scores of other evaluation programs, or the reasons why there are none."""
    rows = [(lane.name, score) for lane in result.lanes for score in lane.facts.external]
    if rows:
        st.table(
            {
                _("Lane"): [lane_label(lane) for lane, _score in rows],
                _("Program"): [score.program for _lane, score in rows],
                _("Task"): [escape(score.task) for _lane, score in rows],
                _("Metric"): [escape(score.metric) for _lane, score in rows],
                _("Value"): [_with_error(score) for _lane, score in rows],
                _("Questions"): [units.count(score.n) for _lane, score in rows],
            },
            border="horizontal",
            hide_index=True,
        )
    for lane in result.lanes:
        if lane.facts.external_error is not None:
            st.markdown(lane_label(lane.name))
            show_error(lane.facts.external_error)


def _with_error(score: ExternalScore) -> str:
    if score.standard_error is None:
        return f"{score.value:.4f}"
    return f"{score.value:.4f} ± {score.standard_error:.4f}"


def _right(lane: LaneQuality) -> str:
    if lane.tasks is None or lane.tasks.accuracy_ratio is None:
        return units.UNKNOWN
    right, asked = lane.tasks.outcomes[Outcome.RIGHT], lane.tasks.asked
    return _(
        "**{share}** ({right} of {asked})",
        share=units.share(lane.tasks.accuracy_ratio),
        right=right,
        asked=asked,
    )


def _not_answered(lane: LaneQuality) -> str:
    if lane.tasks is None:
        return units.UNKNOWN
    counted = lane.tasks.outcomes
    return f"{counted[Outcome.UNANSWERED]}, {counted[Outcome.CUT_OFF]}, {counted[Outcome.FAILED]}"


def _same(score: AgreementScore | None) -> str:
    if score is None or not score.n:
        return units.UNKNOWN
    return _("{identical} of {n}", identical=score.identical, n=score.n)


def _nats(lane: LaneQuality, name: str) -> str:
    score = lane.text(name)
    if score is None or score.nats_per_token is None:
        return units.UNKNOWN
    value = units.nats(score.nats_per_token)
    return f"{value} ({units.nats_apart(score.difference.value)})" if score.difference else value


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return units.UNKNOWN
    return _("{low} to {high}", low=units.share(interval.low), high=units.share(interval.high))


def _show_flags(result: QualityResult) -> None:
    fairness_flags = flags(result)
    for flag in fairness_flags:
        if not flag.intended:
            st.warning(_("Differs between lanes: {what}", what=escape(flag.text)), icon=":material/balance:")
    intended = [flag.text for flag in fairness_flags if flag.intended]
    if intended:
        st.caption(_("Compared intentionally: {what}", what=escape("; ".join(intended))))


def _show_exports(result: QualityResult, record: QualityRecord) -> None:
    show_export(
        _("Export JSON"),
        f"{RunKind.QUALITY} {result.run.id}",
        lambda: quality_to_json(result, record, raw=True),
        file_name=f"quality-{result.run.id}.json",
        key=f"export_{result.run.id}",
    )


def show_charts(result: QualityResult) -> None:
    """All charts that the run has the figures for."""
    colors = {lane.name: color_of(lane.name) for lane in result.lanes}
    run_id = result.run.id
    known = measures(result)
    if known:
        left, right = st.columns(2)
        measure = left.segmented_control(
            _("Quality"),
            known,
            default=known[0],
            format_func=measure_name,
            required=True,
            key=f"measure_{run_id}",
        )
        area = right.segmented_control(
            _("Area"),
            list(Area),
            default=Area.MEMORY,
            format_func=lambda area: _(AREA_NAMES[area]),
            required=True,
            key=f"area_{run_id}",
            help=_("Memory includes the KV cache that the engine reserves."),
        )
        show_chart(
            trade_off_chart(
                trade_off_points(result, measure, area),
                colors,
                quality=measure_name(measure),
                size=_(AREA_NAMES[area]),
                is_share=measure == RIGHT_ANSWERS,
            ),
            key=f"trade_off_{run_id}",
            alt=_("Quality against decode speed by lane; values in the table above"),
        )
    with st.grid(2, min_column_width=320):
        for chart in differences(result):
            title = _(chart.title)
            show_chart(
                difference_chart(chart.rows, colors, title=title, noise=chart.noise, is_share=chart.is_share),
                key=f"difference_{run_id}_{chart.key}",
                alt=_("{title}; values in the table above", title=title),
            )
        if curves := prefix_curves(result):
            show_chart(
                prefix_chart(curves, colors),
                key=f"prefix_{run_id}",
                alt=_("Share of answers still identical to the reference, by length in tokens"),
            )


def measure_name(measure: str) -> str:
    return measure if measure != RIGHT_ANSWERS else _("Correct answers")


def show_answers(result: QualityResult, record: QualityRecord) -> None:
    """Pick a lane and which answers; each is shown beside the reference's with what differs."""
    lanes = [lane.name for lane in result.lanes if lane.role is not Role.REFERENCE]
    if not lanes:
        return
    compared = {lane: compared_answers(result, record, lane) for lane in lanes}
    most_different = max(lanes, key=lambda lane: sum(not answer.identical for answer in compared[lane]))
    run_id = result.run.id
    st.subheader(_("Answers"), anchor=False)
    left, right = st.columns(2)
    lane = left.segmented_control(
        _("Lane"), lanes, default=most_different, required=True, key=f"answers_lane_{run_id}"
    )
    chosen = right.segmented_control(
        _("Show"),
        list(_FILTERS),
        default=_DIFFERENT,
        format_func=_,
        required=True,
        key=f"answers_filter_{run_id}",
    )
    answers = [answer for answer in compared[lane] if _FILTERS[chosen](answer)]
    st.caption(ngettext("{n} answer", "{n} answers", len(answers)))
    if not answers:
        return
    pages = math.ceil(len(answers) / _ANSWERS_A_PAGE)
    page = st.pagination(pages, key=f"answers_page_{run_id}_{lane}_{chosen}") if pages > 1 else 1
    for answer in answers[(page - 1) * _ANSWERS_A_PAGE : page * _ANSWERS_A_PAGE]:
        with st.container(border=True):
            _show_answer(result, answer, lane)


def _show_answer(result: QualityResult, answer: ComparedAnswer, lane: str) -> None:
    st.markdown(f"**{escape(answer.question)}**")
    if answer.task is not None and answer.task.answers:
        expected = escape(", ".join(answer.task.answers))
        st.caption(_("Expected: {answers}", answers=expected))
    if answer.parts_at is not None:
        st.caption(_("The first different token is number {place}.", place=answer.parts_at + 1))
    left, right = st.columns(2)
    with left:
        st.markdown(f"{lane_label(result.reference.name)} {_badge(answer.reference_outcome)}")
        st.markdown(_marked(answer, Change.ONLY_REFERENCE) or _("No text"))
    with right:
        st.markdown(f"{lane_label(lane)} {_badge(answer.outcome)}")
        if answer.answer.error is not None:
            st.markdown(escape(_(answer.answer.error.message)))
        else:
            st.markdown(_marked(answer, Change.ONLY_LANE) or _("No text"))


def _marked(answer: ComparedAnswer, own: Change) -> str:
    """One side's text, with what only it says marked."""
    parts = []
    for piece in answer.pieces:
        text = escape(piece.text).replace("\n", "  \n")
        if piece.change is Change.SAME:
            parts.append(text)
        elif piece.change is own and text.strip():
            parts.append(f":orange-background[{text.rstrip()}]{' ' if text[-1:].isspace() else ''}")
    return "".join(parts)


def _badge(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    color, icon, word = _BADGES[outcome]
    return f":{color}-badge[{icon} {_(word)}]"
