"""A recorded turn in its lanes' columns, growing as its answers came."""

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core import units
from core.domain.turns import Phase, RequestRecord, TurnRecord
from core.i18n import _
from core.replay.turns import LaneFrame, TurnTimeline
from core.ui.chat.answers import MIN_LANE_WIDTH_PX, ONE_ROW_LANES
from core.ui.chat.figures import Standing, show_figures, standings
from core.ui.shared.components import describe_lane, escape, lane_label, show_error
from core.ui.text.live_text import LiveText

_ANSWER_HEIGHT_PX = 200
"""Lower than in the chat, so that controls, answers and figures fit a screen together."""
_STATUS_STEP_S = 0.1
"""The finest step in which a waiting time is told."""


class TurnScene:
    """Draws into the container that is current when it is made. For one run of the script."""

    def __init__(self, turn: TurnRecord, timeline: TurnTimeline) -> None:
        self._timeline = timeline
        compare = standings(turn.requests, None)
        lanes = len(turn.requests)
        columns = lanes if lanes <= ONE_ROW_LANES else (lanes + 1) // 2
        self._lanes: list[_Lane] = []
        with st.grid(columns, min_column_width=MIN_LANE_WIDTH_PX) as grid:
            for request in turn.requests:
                with grid.cell():
                    self._lanes.append(_Lane(request, compare.get(request.id)))

    def draw(self, at_s: float, *, final: bool) -> None:
        """`final` draws what texts hold back for their pace."""
        for lane, frame in zip(self._lanes, self._timeline.frame(at_s), strict=True):
            lane.draw(frame, final=final)


class _Lane:
    """One column: head, status, reasoning, answer, and its figures once it is complete."""

    def __init__(self, request: RequestRecord, standing: Standing | None) -> None:
        self._request, self._standing = request, standing
        self._content_chars = self._reasoning_chars = 0
        self._status = ""
        self._is_done = False
        self._reasoning: LiveText | None = None
        st.markdown(f"{lane_label(request.lane.name)}  \n:small[:gray[{describe_lane(request.lane)}]]")
        with st.container(height=_ANSWER_HEIGHT_PX, border=True, autoscroll=True):
            self._status_place = st.empty()
            self._reasoning_place = st.container()
            self._text = LiveText()
            self._end_place = st.container()
        self._figures_place = st.container()

    def draw(self, frame: LaneFrame, *, final: bool) -> None:
        if self._is_done:
            return
        self._is_done = frame.phase is Phase.DONE
        self._show_status(frame)
        record = self._request
        if frame.reasoning_chars > self._reasoning_chars:
            if self._reasoning is None:
                with self._reasoning_place, _reasoning_box():
                    self._reasoning = LiveText()
            self._reasoning.append(record.reasoning[self._reasoning_chars : frame.reasoning_chars])
            self._reasoning_chars = frame.reasoning_chars
        if frame.content_chars > self._content_chars:
            self._text.append(record.text[self._content_chars : frame.content_chars])
            self._content_chars = frame.content_chars
        for text in (self._reasoning, self._text):
            if text is not None:
                text.draw(final=self._is_done or final)
        if self._is_done:
            with self._end_place:
                if record.error:
                    show_error(record.error)
                elif not record.text and not record.reasoning:
                    st.caption(_("The lane ended without any text."))
            with self._figures_place:
                show_figures(record, self._standing)

    def _show_status(self, frame: LaneFrame) -> None:
        status = _status(frame)
        if status != self._status:
            self._status = status
            if status:
                self._status_place.markdown(status)
            else:
                self._status_place.empty()


def _status(frame: LaneFrame) -> str:
    match frame.phase:
        case Phase.QUEUED:
            return f":gray[{escape(_('Waiting for its turn'))}]"
        case Phase.SENT:
            waited_s = (frame.since_sent_s or 0.0) // _STATUS_STEP_S * _STATUS_STEP_S
            text = escape(_("Waiting for the first token"))
            return f":gray[{text}] · {units.duration(waited_s)}"
    return ""


def _reasoning_box() -> DeltaGenerator:
    return st.expander(_("Reasoning"), type="compact", icon=":material/psychology:")
