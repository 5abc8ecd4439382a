"""Compare a turn's answers: whether they are identical, and where they first differ."""

import re
from collections.abc import Sequence

import streamlit as st

from core.domain.turns import FinishReason, RequestRecord, TurnRecord
from core.i18n import _
from core.quality.agreement import Agreement, Change, Piece, agreement, diff
from core.ui.shared.components import escape, lane_label

_WORD = re.compile(r"[\u2e80-\uffff]|[^\s\u2e80-\uffff]+\s*|\s+")
"""East Asian text in characters, other text in words with the space after them."""
_MOST_WORDS = 4_000
"""Words of each answer that are compared: a diff takes time with the square of it."""


def show_agreement(turn: TurnRecord, baseline: str | None) -> None:
    """One line about how the answers agree, with a way to see them side by side."""
    answers = answered(turn)
    if len(answers) < 2:
        return
    reference = next((record for record in answers if record.lane.name == baseline), answers[0])
    others = [record for record in answers if record is not reference]
    different = [record for record in others if record.text != reference.text]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption(describe(reference, others), width="content")
        if different and st.button(
            _("Compare answers"), icon=":material/difference:", type="tertiary", key=f"compare_{turn.id}"
        ):
            show = st.dialog(_("Answers side by side"), width="large", icon=":material/difference:")
            show(_show_differences)(reference, different)


def answered(turn: TurnRecord) -> list[RequestRecord]:
    """The answers that ended by themselves or at the token limit: only these can be compared."""
    ends = (FinishReason.STOP, FinishReason.LENGTH)
    return [record for record in turn.requests if record.finish_reason in ends and record.text]


def describe(reference: RequestRecord, others: Sequence[RequestRecord]) -> str:
    """The first difference of each answer from the reference's, in Markdown."""
    if all(record.text == reference.text for record in others):
        return f":green-badge[:material/equal: {_('Identical answers')}]"
    parts = [_difference(reference, record) for record in others]
    return f":material/difference: {' · '.join(parts)}"


def _difference(reference: RequestRecord, record: RequestRecord) -> str:
    lane, other = escape(record.lane.name), escape(reference.lane.name)
    if record.text == reference.text:
        return _("{lane} is identical to {reference}", lane=lane, reference=other)
    same = _agreement(reference, record).prefix_tokens
    return _("{lane} parts from {reference} after {n} words", lane=lane, reference=other, n=same)


def _agreement(reference: RequestRecord, record: RequestRecord) -> Agreement:
    ids: dict[str, int] = {}
    first, second = (
        [ids.setdefault(word, len(ids)) for word in _words(text)] for text in (reference.text, record.text)
    )
    return agreement(first, second)


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _show_differences(reference: RequestRecord, others: Sequence[RequestRecord]) -> None:
    names = [record.lane.name for record in others]
    chosen = names[0]
    if len(names) > 1:
        chosen = st.segmented_control(
            _("Compare with {lane}", lane=escape(reference.lane.name)),
            names,
            default=names[0],
            required=True,
            key=f"compared_lane_{reference.id}",
        )
    other = next(record for record in others if record.lane.name == chosen)
    words, other_words = _words(reference.text), _words(other.text)
    if max(len(words), len(other_words)) > _MOST_WORDS:
        st.caption(_("Only the first {n} words of each answer are compared.", n=_MOST_WORDS))
    pieces = diff(words[:_MOST_WORDS], other_words[:_MOST_WORDS])
    left, right = st.columns(2)
    for place, record, own in ((left, reference, Change.ONLY_REFERENCE), (right, other, Change.ONLY_LANE)):
        with place:
            st.markdown(lane_label(record.lane.name))
            with st.container(border=True):
                st.markdown(_marked(pieces, own))


def _marked(pieces: Sequence[Piece], own: Change) -> str:
    """One answer's text with what only it says marked."""
    parts = []
    for piece in pieces:
        if piece.change is Change.SAME:
            parts.append(escape(piece.text))
        elif piece.change is own:
            parts += [_background(line) for line in re.split(r"(\s*\n\s*)", piece.text)]
    return "".join(parts).replace("\n", "  \n")


def _background(text: str) -> str:
    """The text marked; a break between lines stays one."""
    inner = text.strip()
    return f":orange-background[{escape(inner)}]{' ' if text[-1].isspace() else ''}" if inner else text
