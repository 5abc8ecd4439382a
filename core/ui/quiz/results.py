"""A quiz's results: a table and charts by lane, and each question with what every lane said."""

import math

import streamlit as st

from core import units
from core.charts.quiz import AccuracyBar, LatencyBar, accuracy_chart, latency_chart
from core.codec import encode_plain
from core.domain.turns import RequestRecord
from core.image_quiz.grading import Verdict
from core.image_quiz.results import QuizAnswer, QuizRun, verdict
from core.image_quiz.scores import LaneScore, scores
from core.ui.chat.turn import describe
from core.ui.shared.components import color_of, escape, lane_label
from core.ui.shared.image_views import show_image
from core.ui.shared.rights import exporting

_PAGE = 8
_IMAGE_PX = 140
_BADGES = {
    Verdict.RIGHT: ":green-badge[:material/check: right]",
    Verdict.WRONG: ":red-badge[:material/close: wrong]",
    Verdict.NO_ANSWER: ":orange-badge[:material/error: no answer]",
    Verdict.NOT_GRADED: ":gray-badge[not graded]",
}
_FILTERS = {
    "All": frozenset(Verdict),
    "Wrong somewhere": frozenset({Verdict.WRONG}),
    "No answer somewhere": frozenset({Verdict.NO_ANSWER}),
}


def show_results(run: QuizRun, *, drill_down: bool) -> None:
    """Scores of the questions answered so far; with `drill_down` the questions one by one too."""
    found = scores(run)
    st.caption(describe(run.plan))
    st.table(_table(found), border="horizontal", hide_index=True, width="content")
    asked = f"{len(run.answers)} of {len(run.plan.questions)} questions asked"
    st.caption(f"{asked}. 95 % interval: Wilson's. p50: the median of the answers timed.")
    _show_charts(run, found)
    if any(record.device == "cpu" for answer in run.answers for record in answer.records):
        st.caption(":material/info: Measured on this CPU; says nothing about a GPU.")
    if drill_down:
        st.download_button(
            "Export JSON",
            exporting(f"quiz {run.plan.id}", lambda: encode_plain(run)),
            file_name=f"quiz-{run.plan.id}.json",
            mime="application/json",
            icon=":material/download:",
            key=f"export_{run.plan.id}",
            on_click="ignore",
        )
        _show_questions(run)


def _table(found: tuple[LaneScore, ...]) -> dict[str, list[str]]:
    return {
        "Lane": [lane_label(score.lane) for score in found],
        "Right": [_right(score) for score in found],
        "95 % interval": [_interval(score) for score in found],
        "Wrong": [str(score.wrong) for score in found],
        "No answer": [str(score.no_answer) for score in found],
        "TTFT p50": [units.milliseconds(score.ttft_p50_s) for score in found],
        "E2E p50": [units.milliseconds(score.e2e_p50_s) for score in found],
        "Timed": [str(score.timed) for score in found],
    }


def _right(score: LaneScore) -> str:
    if score.accuracy_ratio is None:
        return units.UNKNOWN
    return f"**{score.accuracy_ratio:.0%}** ({score.right} of {score.graded})"


def _interval(score: LaneScore) -> str:
    interval = score.interval
    return f"{interval.low:.0%} to {interval.high:.0%}" if interval else units.UNKNOWN


def _show_charts(run: QuizRun, found: tuple[LaneScore, ...]) -> None:
    colors = {score.lane: color_of(score.lane) for score in found}
    quiet = {"displayModeBar": False}
    with st.grid(2, min_column_width=300):
        if run.graded:
            st.plotly_chart(
                accuracy_chart([_accuracy_bar(score) for score in found], colors),
                key=f"accuracy_{run.plan.id}",
                config=quiet,
                alt="Share of right answers by lane; the figures stand in the table above",
            )
        st.plotly_chart(
            latency_chart(
                [
                    LatencyBar(lane=score.lane, ttft_s=score.ttft_p50_s, e2e_s=score.e2e_p50_s)
                    for score in found
                ],
                colors,
            ),
            key=f"latency_{run.plan.id}",
            config=quiet,
            alt="Median TTFT and E2E by lane; the figures stand in the table above",
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
        "Questions", list(_FILTERS), default="All", required=True, key=f"quiz_filter_{key}"
    )
    wanted = [
        answer
        for answer in run.answers
        if any(_verdict(run, answer, record) in _FILTERS[chosen] for record in answer.records)
    ]
    if not wanted:
        st.caption("There are none.")
        return
    pages = math.ceil(len(wanted) / _PAGE)
    page = st.pagination(pages, key=f"quiz_page_{key}_{chosen}") if pages > 1 else 1
    for answer in wanted[(page - 1) * _PAGE : page * _PAGE]:
        with st.container(border=True, horizontal=True):
            _show_question(run, answer)


def _show_question(run: QuizRun, answer: QuizAnswer) -> None:
    question = run.plan.questions[answer.question]
    with st.container(width=_IMAGE_PX):
        show_image(question.image)
    with st.container(gap="small"):
        expected = escape(", ".join(question.answers)) if question.answers else "nothing in particular"
        st.markdown(f"**{escape(question.question)}**  \n:small[:gray[Expected: {expected}]]")
        for record in answer.records:
            said = escape(record.error.message if record.error else record.text.strip()) or "no text"
            st.markdown(f"{lane_label(record.lane.name)} {_BADGES[_verdict(run, answer, record)]} {said}")


def _verdict(run: QuizRun, answer: QuizAnswer, record: RequestRecord) -> Verdict:
    return verdict(record, run.plan.questions[answer.question])
