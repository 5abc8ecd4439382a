"""A quiz's results: a table and charts by lane, and each question with what every lane said."""

import math

import streamlit as st

from core import units
from core.charts.quality_points import AccuracyBar, LatencyBar, accuracy_chart, latency_chart
from core.codec import encode_plain
from core.domain.turns import RequestRecord
from core.i18n import N_, _
from core.image_quiz.results import LaneScore, QuizAnswer, QuizRun, Verdict, scores, verdict
from core.ui.chat.turn import describe
from core.ui.shared.components import color_of, escape, lane_label, show_chart
from core.ui.shared.images import show_image
from core.ui.shared.visitor import show_export

_PAGE = 8
_IMAGE_PX = 140
_BADGES = {
    Verdict.RIGHT: N_(":green-badge[:material/check: correct]"),
    Verdict.WRONG: N_(":red-badge[:material/close: wrong]"),
    Verdict.NO_ANSWER: N_(":orange-badge[:material/error: no answer]"),
    Verdict.NOT_GRADED: N_(":gray-badge[not scored]"),
}
_FILTERS = {
    "all": (N_("All"), frozenset(Verdict)),
    "wrong": (N_("Any wrong"), frozenset({Verdict.WRONG})),
    "missing": (N_("Any missing"), frozenset({Verdict.NO_ANSWER})),
}


def show_results(run: QuizRun, *, drill_down: bool) -> None:
    """Scores of the questions answered so far; with `drill_down` the questions one by one too."""
    lane_scores = scores(run)
    st.caption(describe(run.plan))
    st.table(_table(lane_scores), border="horizontal", hide_index=True, width="content")
    st.caption(
        _(
            "{asked} of {total} questions asked. 95% interval: Wilson score interval. p50: median of the "
            "timed "
            "answers.",
            asked=len(run.answers),
            total=len(run.plan.questions),
        )
    )
    _show_charts(run, lane_scores)
    if any(record.device == "cpu" for answer in run.answers for record in answer.records):
        st.caption(f":material/info: {_('Measured on a CPU. Not comparable with GPU figures.')}")
    if drill_down:
        show_export(
            _("Export JSON"),
            f"quiz {run.plan.id}",
            lambda: encode_plain(run),
            file_name=f"quiz-{run.plan.id}.json",
            key=f"export_{run.plan.id}",
        )
        _show_questions(run)


def _table(lane_scores: tuple[LaneScore, ...]) -> dict[str, list[str]]:
    return {
        _("Lane"): [lane_label(score.lane) for score in lane_scores],
        _("Correct"): [_right(score) for score in lane_scores],
        _("95% interval"): [_interval(score) for score in lane_scores],
        _("Wrong"): [str(score.wrong) for score in lane_scores],
        _("No answer"): [str(score.no_answer) for score in lane_scores],
        "TTFT p50": [units.milliseconds(score.ttft_p50_s) for score in lane_scores],
        "E2E p50": [units.milliseconds(score.e2e_p50_s) for score in lane_scores],
        _("Timed answers"): [str(score.timed) for score in lane_scores],
    }


def _right(score: LaneScore) -> str:
    if score.accuracy_ratio is None:
        return units.UNKNOWN
    return _(
        "**{share}** ({part} of {total})",
        share=f"{score.accuracy_ratio:.0%}",
        part=score.right,
        total=score.graded,
    )


def _interval(score: LaneScore) -> str:
    interval = score.interval
    if interval is None:
        return units.UNKNOWN
    return _("{low} to {high}", low=f"{interval.low:.0%}", high=f"{interval.high:.0%}")


def _show_charts(run: QuizRun, lane_scores: tuple[LaneScore, ...]) -> None:
    colors = {score.lane: color_of(score.lane) for score in lane_scores}
    with st.grid(2, min_column_width=300):
        if run.graded:
            show_chart(
                accuracy_chart([_accuracy_bar(score) for score in lane_scores], colors),
                key=f"accuracy_{run.plan.id}",
                alt=_("Share of correct answers by lane; values in the table above"),
            )
        show_chart(
            latency_chart(
                [
                    LatencyBar(lane=score.lane, ttft_s=score.ttft_p50_s, e2e_s=score.e2e_p50_s)
                    for score in lane_scores
                ],
                colors,
            ),
            key=f"latency_{run.plan.id}",
            alt=_("Median TTFT and E2E latency by lane; values in the table above"),
        )


def _accuracy_bar(score: LaneScore) -> AccuracyBar:
    interval = score.interval
    return AccuracyBar(
        lane=score.lane,
        ratio=score.accuracy_ratio,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        text=units.UNKNOWN if score.accuracy_ratio is None else f"{score.accuracy_ratio:.0%}",
    )


def _show_questions(run: QuizRun) -> None:
    key = run.plan.id
    chosen = st.segmented_control(
        _("Questions"),
        list(_FILTERS),
        default="all",
        format_func=lambda name: _(_FILTERS[name][0]),
        required=True,
        key=f"quiz_filter_{key}",
    )
    questions = [
        answer
        for answer in run.answers
        if any(_verdict(run, answer, record) in _FILTERS[chosen][1] for record in answer.records)
    ]
    if not questions:
        st.caption(_("There are no such questions."))
        return
    pages = math.ceil(len(questions) / _PAGE)
    page = st.pagination(pages, key=f"quiz_page_{key}_{chosen}") if pages > 1 else 1
    for answer in questions[(page - 1) * _PAGE : page * _PAGE]:
        with st.container(border=True, horizontal=True):
            _show_question(run, answer)


def _show_question(run: QuizRun, answer: QuizAnswer) -> None:
    question = run.plan.questions[answer.question]
    with st.container(width=_IMAGE_PX):
        show_image(question.image)
    with st.container(gap="small"):
        expected = escape(", ".join(question.answers)) or _("any answer")
        st.markdown(
            f"**{escape(question.question)}**  \n:small[:gray[{_('Expected: {answers}', answers=expected)}]]"
        )
        for record in answer.records:
            text = escape(_(record.error.message) if record.error else record.text.strip()) or _("no text")
            badge = _(_BADGES[_verdict(run, answer, record)])
            st.markdown(f"{lane_label(record.lane.name)} {badge} {text}")


def _verdict(run: QuizRun, answer: QuizAnswer, record: RequestRecord) -> Verdict:
    return verdict(record, run.plan.questions[answer.question])
