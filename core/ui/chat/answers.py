"""The answers of a turn, a column for each lane, streaming at the same time.

Each lane that is not done runs in a parallel fragment and follows its request. Following is only looking: a
script run that ends, for whatever reason, changes nothing about the request.
"""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from threading import Event, Lock
from time import monotonic, sleep

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core import units
from core.domain.turns import FinishReason, Phase, RequestRecord, TurnRecord
from core.engines.registry import EngineState
from core.errors import LMDynoError
from core.i18n import _
from core.meter.protocol import Update
from core.ui.chat import session as chat_session
from core.ui.chat.figures import Standing, show_figures, standings
from core.ui.engines import status as engine_status
from core.ui.engines.status import show_log
from core.ui.shared import resources
from core.ui.shared.components import Slots, describe_lane, escape, lane_label, show_error
from core.ui.shared.live_text import LiveText, show_text

ANSWER_HEIGHT_PX = 360
"""Of an answer that comes, and of a long one that is not expanded."""
MIN_LANE_WIDTH_PX = 210
ONE_ROW_LANES = 4
_WIDTH_CHARS = 150
"""Characters in a line as wide as the page."""
_BOX_LINES = 13
_STATUS_INTERVAL_S = 0.5
_YIELD_S = 0.1
"""How soon a click is noticed while nothing is drawn."""
_YIELDS_PER_S = 200
"""Of all sessions together, since each look wakes a thread: in a crowd each looks less often."""
_PARTS = ("status", "reasoning", "text", "end")
"""The places in an answer's box, the same while it comes and afterwards."""


class _Count:
    """How many threads of this process are within its `with` blocks."""

    def __init__(self) -> None:
        self.number = 0
        self._changing = Lock()

    def __enter__(self) -> None:
        with self._changing:
            self.number += 1

    def __exit__(self, *_: object) -> None:
        with self._changing:
            self.number -= 1


_waiting = _Count()


@dataclass(slots=True)
class RunningLane:
    """A lane that is being followed in a fragment of its own."""

    request: RequestRecord
    """The final record once the request is done and drawn."""
    ended: Event = field(default_factory=Event)
    """Set when nothing more will be drawn, for whatever reason."""


def show_lanes(turn: TurnRecord, *, baseline: str | None, expanded: bool) -> list[RunningLane]:
    """Draw the turn's answers; returns the lanes that still run.

    The box of an answer that isn't long is as high as its text. Longer answers are cut at one height and
    shown from their beginning, unless they are expanded.
    """
    compare = standings(turn.requests, baseline)
    columns = _columns(turn)
    running: list[RunningLane] = []
    grid = st.grid(columns, min_column_width=MIN_LANE_WIDTH_PX)
    for request in turn.requests:
        with grid.cell():
            _show_head(request)
            if request.phase is Phase.DONE:
                height = ANSWER_HEIGHT_PX if _exceeds_box(request, columns) and not expanded else None
                _show_finished(request, compare.get(request.id), height=height)
            else:
                lane = RunningLane(request)
                running.append(lane)
                _follow(lane)
    return running


def is_long(turn: TurnRecord) -> bool:
    """Whether an answer of the turn is longer than its box, as far as can be told without the browser."""
    return any(_exceeds_box(request, _columns(turn)) for request in turn.requests)


def _exceeds_box(request: RequestRecord, columns: int) -> bool:
    line_chars = _WIDTH_CHARS // columns
    return sum(1 + len(line) // line_chars for line in request.text.splitlines()) > _BOX_LINES


def _columns(turn: TurnRecord) -> int:
    lanes = len(turn.requests)
    return lanes if lanes <= ONE_ROW_LANES else (lanes + 1) // 2


def _show_head(request: RequestRecord) -> None:
    st.markdown(f"{lane_label(request.lane.name)}  \n:small[:gray[{describe_lane(request.lane)}]]")


def wait_until_done(running: list[RunningLane]) -> bool:
    """Keep the script run alive while lanes stream: a click ends it soon.

    False if a lane could not be followed to its end.
    """
    with _waiting:
        while not all(lane.ended.is_set() for lane in running):
            chat_session.tick()
            sleep(max(_YIELD_S, _waiting.number / _YIELDS_PER_S))
    # A superseded run must end as such here, however its lanes ended: one that ends well would clear the
    # clicks that belong to the run after it.
    chat_session.tick()
    return all(lane.request.phase is Phase.DONE for lane in running)


@st.fragment(parallel=True)
def _follow(lane: RunningLane) -> None:
    box = _answer_box(lane.request, ANSWER_HEIGHT_PX, running=True)
    figures = st.container()
    try:
        lane.request = _stream(lane.request, box, chat_session.updates(lane.request))
        with figures:
            show_figures(lane.request)
    except LMDynoError as error:
        with figures:
            show_error(error)
    finally:
        lane.ended.set()


def _stream(
    request: RequestRecord, box: DeltaGenerator, updates: Generator[Update | None, None, None]
) -> RequestRecord:
    """Draw what comes until the request is done; returns its record."""
    with box, Slots(*_PARTS) as slots:
        with slots.fill("status"):
            status = _StatusLine(request)
        reasoning_place = slots.fill("reasoning")
        reasoning: LiveText | None = None
        with slots.fill("text"):
            text = LiveText(opened_s=chat_session.opened_s())
        with closing(updates):
            for update in updates:
                chat_session.tick()
                if update:
                    status.update(update)
                    if update.reasoning and reasoning is None:
                        with reasoning_place, _reasoning_expander():
                            reasoning = LiveText(opened_s=chat_session.opened_s())
                    if reasoning:
                        reasoning.append(update.reasoning)
                    text.append(update.content)
                final = update is not None and update.record is not None
                for part in (reasoning, text):
                    if part:
                        part.draw(final=final)
                status.draw()
                if update and update.record:
                    status.clear()
                    with slots.fill("end"):
                        _show_end(update.record)
                    return update.record
    raise RuntimeError(f"the updates of request {request.id} ended before it was done")


def _show_finished(record: RequestRecord, standing: Standing | None, *, height: int | None) -> None:
    """Every part in the place that it had in `_follow`, whose fragment is a container of its own."""
    with st.container(height="stretch"):
        with _answer_box(record, height, running=False), Slots(*_PARTS) as slots:
            if record.reasoning:
                with slots.fill("reasoning"), _reasoning_expander():
                    show_text(record.reasoning, key=f"reasoning_{record.id}")
            with slots.fill("text"):
                show_text(record.text, key=f"text_{record.id}")
            with slots.fill("end"):
                _show_end(record)
        with st.container():
            show_figures(record, standing)
            if record.error and record.lane.is_local:
                _offer_restart(record)


def _answer_box(request: RequestRecord, height: int | None, *, running: bool) -> DeltaGenerator:
    # A box of its own when it has ended: the one that followed the text is scrolled to where that was.
    key = f"answer_{request.lane.name}_{request.id}_{'running' if running else 'ended'}"
    # Not while it is read again: a finished text would jump to its end.
    return st.container(height=height or "stretch", border=True, autoscroll=running, key=key)


def _reasoning_expander() -> DeltaGenerator:
    return st.expander(_("Reasoning"), type="compact", icon=":material/psychology:")


def _show_end(record: RequestRecord) -> None:
    """The error, or the reason for no text, where the text ends."""
    if record.error:
        show_error(record.error)
    elif not record.text and not record.reasoning:
        st.caption(_without_text(record))


def _without_text(record: RequestRecord) -> str:
    if record.finish_reason is not FinishReason.CANCELLED:
        return _("The lane ended without any text.")
    if record.timing is None:
        return _("Not sent: stopped before its turn.")
    return _("Stopped before the first token.")


def _offer_restart(record: RequestRecord) -> None:
    """The log and a way to start again, while this lane's engine is down."""
    known = [lane.name for lane in resources.lanes().lanes]
    name = record.lane.name
    if name in known and resources.manager().status(name).state is EngineState.FAILED:
        show_log(name)
        st.button(
            _("Start the engine again"),
            icon=":material/restart_alt:",
            key=f"restart_{record.id}",
            on_click=engine_status.restart,
            args=(name,),
        )


class _StatusLine:
    """The reason why a lane has no text yet; sent only when it changes."""

    def __init__(self, request: RequestRecord) -> None:
        self._slot = st.empty()
        self._request = request
        self._phase = request.phase
        self._place: int | None = None
        self._since_s = monotonic()
        self._due_s = 0.0
        self._shown = ""

    def update(self, update: Update) -> None:
        if update.phase is not self._phase:
            self._since_s = monotonic()
        if (update.phase, update.place) != (self._phase, self._place):
            self._phase, self._place = update.phase, update.place
            self._due_s = 0.0

    def draw(self) -> None:
        now_s = monotonic()
        if now_s < self._due_s:
            return
        self._due_s = now_s + _STATUS_INTERVAL_S
        if (text := self._text(now_s - self._since_s)) != self._shown:
            self._shown = text
            if text:
                self._slot.markdown(text)
            else:
                self._slot.empty()

    def clear(self) -> None:
        if self._shown:
            self._slot.empty()

    def _text(self, elapsed_s: float) -> str:
        match self._phase:
            case Phase.QUEUED:
                if self._place:
                    return _shimmering(_("Queued, position {place}", place=self._place))
                return _shimmering(_("Waiting for its turn"))
            case Phase.STARTING:
                return starting_text(self._request)
            case Phase.SETTLING:
                return _shimmering(_("Waiting until a stopped request is finished"), elapsed_s)
            case Phase.SENT:
                return _shimmering(_("Waiting for the first token"), elapsed_s)
            case _:
                return ""


def starting_text(request: RequestRecord) -> str:
    """The stage of the engine's start-up, as its manager knows it."""
    if not request.lane.is_local:
        return _shimmering(_("Connecting"))
    status = resources.manager().status(request.lane.name)
    stage = _(status.stage) if status.stage else _("Starting the engine")
    head = _shimmering(stage, status.elapsed_s)
    return f"{head}\n\n:small[:gray[{escape(status.last_log_line)}]]" if status.last_log_line else head


def _shimmering(text: str, elapsed_s: float | None = None) -> str:
    """A text that shows that something goes on, and for how long already."""
    shimmer = f":shimmer[{escape(text)}]"
    return shimmer if elapsed_s is None else f"{shimmer} · {units.duration(elapsed_s)}"
