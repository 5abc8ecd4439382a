"""The answers of a lane beside the reference's, the worst first."""

import math
from collections.abc import Callable, Mapping

import streamlit as st

from core.domain.quality import QualityRecord
from core.i18n import N_, Message, _, ngettext
from core.quality.agreement import Change
from core.quality.results import Outcome, QualityResult, Role
from core.quality.worst import ComparedAnswer, compared_answers
from core.ui.shared.components import escape, lane_label

_PAGE = 6
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
    pages = math.ceil(len(answers) / _PAGE)
    page = st.pagination(pages, key=f"answers_page_{run_id}_{lane}_{chosen}") if pages > 1 else 1
    for answer in answers[(page - 1) * _PAGE : page * _PAGE]:
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
