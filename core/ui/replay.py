"""Replays of stored turns, load tests and walks, and of a whole recording: the scenes, and their player.

While it plays, the script's run draws one moment after another until it ends or a click ends it; nothing is
measured, sent or stored. It is no fragment: a click in a fragment waits until the fragment's run has ended.
A scene is a turn, a load test or a walk at a moment of its recording.
"""

from collections.abc import Callable
from functools import cache
from time import monotonic, sleep
from typing import Protocol, TypeVar

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core import units
from core.domain.runs import BenchRecord
from core.domain.turns import ErrorInfo, Machine, Phase, RequestRecord, TurnRecord
from core.domain.walk import WalkRun
from core.errors import InputError
from core.i18n import _
from core.replay.recording import origin
from core.replay.timelines import (
    SPEED_WINDOW_S,
    SPEEDS,
    LaneFrame,
    LaneLoad,
    LoadFrame,
    LoadTimeline,
    Part,
    Playback,
    Programme,
    Source,
    TurnTimeline,
    WalkTimeline,
)
from core.telemetry.nvml import describe_machine
from core.ui.chat.answers import (
    MIN_LANE_WIDTH_PX,
    Standing,
    columns_of,
    reasoning_expander,
    show_figures,
    standings,
)
from core.ui.engines.walk import show_step, step_title
from core.ui.shared.components import color_of, describe_lane, escape, lane_label, show_error
from core.ui.shared.live_text import LiveText

LONG_S = 30.0
"""Longer replays begin at a speed at which they take about as long."""
_SPEEDS = (1.0, 2.0, 5.0, 10.0, 20.0)
_TIMELINE = "replay_timeline"

_ANSWER_HEIGHT_PX = 200
"""Lower than in the chat, so that controls, answers and figures fit a screen together."""
_STATUS_STEP_S = 0.1
"""The finest step in which a waiting time is told."""

_INTERVAL_S = 0.25
_POINTS = 240
"""Moments of the whole run in its chart."""
_CHART_HEIGHT_PX = 260

_HEIGHT_PX = 560

PLAY = "play"
"""The address's parameter that starts the demo at once."""
_TICK_S = 0.05
_BAR_INTERVAL_S = 0.25
_STEP_S = 0.01
"""Of the slider."""


class Scene(Protocol):
    """A replayed recording, made anew for each run of the player; it draws into the current container."""

    def draw(self, at_s: float, *, final: bool) -> None:
        """Show that moment; `final` is the last one before the replay rests. Time never goes back."""


class Timeline(Protocol):
    @property
    def duration_s(self) -> float: ...


T = TypeVar("T", bound=Timeline)


def show_turn_replay(turn: TurnRecord) -> None:
    """The turn in its lanes' columns; says so where nothing can be replayed."""
    label = origin_of(turn)
    _show(f"turn_{turn.id}", label, lambda: TurnTimeline(turn), lambda timeline: TurnScene(turn, timeline))


def show_load_replay(record: BenchRecord) -> None:
    """The run's passes and what its lanes did; says so where nothing can be replayed."""
    _show(f"run_{record.run.id}", origin_of(record), lambda: LoadTimeline(record), LoadScene)


def show_walk_replay(run: WalkRun) -> None:
    """The walk's steps as they were taken."""
    label = origin_of(run)
    _show(f"walk_{run.id}", label, lambda: WalkTimeline(run), lambda timeline: WalkScene(run, timeline))


def opening_speed(duration_s: float) -> float:
    """The slowest speed at which the replay takes at most `LONG_S`, else the fastest."""
    return next((speed for speed in _SPEEDS if duration_s / speed <= LONG_S), _SPEEDS[-1])


def _show(name: str, label: str, make: Callable[[], T], scene: Callable[[T], Scene]) -> None:
    try:
        timeline = _kept(name, make)
    except InputError as error:
        show_error(ErrorInfo.of(error))
        return
    playback = playback_of(name, timeline.duration_s, opening_speed(timeline.duration_s))
    show_player(name, playback, escape(label), lambda: scene(timeline))


def _kept(name: str, make: Callable[[], T]) -> T:
    """The session's timeline of that name, kept until another one is replayed: a long one takes its time."""
    kept: tuple[str, T] | None = st.session_state.get(_TIMELINE)
    if kept is None or kept[0] != name:
        kept = (name, make())
        st.session_state[_TIMELINE] = kept
    return kept[1]


@cache
def this_machine() -> Machine:
    """Described once a process."""
    return describe_machine()


class ShowScene:
    """Draws into the container that is current when it is made. For one run of the script."""

    def __init__(self, programme: Programme, label: str) -> None:
        """`label` says where the recording is from; parts of which it isn't true say so themselves."""
        self._programme, self._label = programme, label
        # A place for each part: one that was used keeps what the browser shows until it is emptied.
        self._places = [st.empty() for _part in programme.parts]
        self._part: int | None = None
        self._scene: Scene | None = None

    def draw(self, at_s: float, *, final: bool) -> None:
        """The part that is on; the one before it leaves."""
        place = self._programme.place(at_s)
        if place.part != self._part or self._scene is None:
            if self._part is not None:
                self._places[self._part].empty()
            self._part = place.part
            part = self._programme.parts[place.part]
            with self._places[place.part].container():
                st.markdown(_part_head(place.part + 1, len(self._programme.parts), part))
                if (own := origin_of(part.source)) != self._label:
                    st.caption(escape(own))
                self._scene = _scene(part)
        ended = place.at_s >= self._programme.parts[place.part].timeline.duration_s
        self._scene.draw(place.at_s, final=final or ended)


def title_of(part: Part) -> str:
    """The title of the part, as plain text."""
    match part.source:
        case TurnRecord():
            return _("Chat: {prompt}", prompt=part.source.prompt)
        case BenchRecord():
            return _("Benchmark: {title}", title=_(part.source.run.title))
        case WalkRun():
            return _("Walk with {model}", model=part.source.model)


def origin_of(source: Source) -> str:
    """The machine and date of the recording; parts of one recording may be of several days."""
    match source:
        case TurnRecord():
            devices = [request.device for request in source.requests]
            text = origin(source.machine, source.created_at, here=this_machine(), devices=devices)
        case BenchRecord():
            devices = [facts.device for facts in source.run.lanes]
            text = origin(source.run.machine, source.run.created_at, here=this_machine(), devices=devices)
        case WalkRun():
            text = origin(source.machine, source.created_at, here=this_machine())
    return _(text)


def _part_head(number: int, total: int, part: Part) -> str:
    text = _("{number} of {total} · **{title}**", number=number, total=total, title=escape(title_of(part)))
    return text if part.speed == 1 else f"{text} · {part.speed:g}×"


def _scene(part: Part) -> Scene:
    match part.timeline:
        case TurnTimeline():
            assert isinstance(part.source, TurnRecord)
            return TurnScene(part.source, part.timeline)
        case LoadTimeline():
            return LoadScene(part.timeline)
        case WalkTimeline():
            assert isinstance(part.source, WalkRun)
            return WalkScene(part.source, part.timeline)


class TurnScene:
    """Draws into the container that is current when it is made. For one run of the script."""

    def __init__(self, turn: TurnRecord, timeline: TurnTimeline) -> None:
        self._timeline = timeline
        compare = standings(turn.requests, None)
        self._lanes: list[_Lane] = []
        with st.grid(columns_of(turn), min_column_width=MIN_LANE_WIDTH_PX) as grid:
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
                with self._reasoning_place, reasoning_expander():
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


class LoadScene:
    """Draws into the container that is current when it is made. For one run of the script."""

    def __init__(self, timeline: LoadTimeline) -> None:
        self._timeline = timeline
        self._step_s = max(timeline.duration_s / _POINTS, _INTERVAL_S)
        self._head = st.empty()
        names = [lane.lane for lane in timeline.frame(0.0).lanes]
        self._colors = [color_of(name) for name in names]
        with st.grid(min(len(names), 3), min_column_width=MIN_LANE_WIDTH_PX) as grid:
            self._places = []
            for name in names:
                with grid.cell():
                    st.markdown(lane_label(name))
                    self._places.append(st.empty())
        self._chart = st.empty()
        st.caption(
            _("Output tokens per second, by lane, within the last {seconds} s", seconds=f"{SPEED_WINDOW_S:g}")
        )
        self._names = names
        self._columns: dict[str, list[float]] = {"s": [], **{name: [] for name in names}}
        self._due_s = 0.0

    def draw(self, at_s: float, *, final: bool) -> None:
        """At most four times a second: counts and a chart cost a browser more than text."""
        now_s = monotonic()
        if now_s < self._due_s and not final:
            return
        self._due_s = now_s + _INTERVAL_S
        frame = self._timeline.frame(at_s)
        self._head.markdown(_load_head(frame, len(self._timeline.passes)))
        for place, lane in zip(self._places, frame.lanes, strict=True):
            place.markdown(_counts(lane))
        times = self._columns["s"]
        while not times or times[-1] + self._step_s <= at_s:
            moment_s = times[-1] + self._step_s if times else 0.0
            times.append(moment_s)
            for lane in self._timeline.frame(moment_s).lanes:
                self._columns[lane.lane].append(lane.tok_per_s)
        self._chart.line_chart(
            self._columns,
            x="s",
            y=self._names,
            color=[*self._colors],
            x_label=_("Time, s"),
            y_label="tok/s",
            height=_CHART_HEIGHT_PX,
        )


def _load_head(frame: LoadFrame, passes: int) -> str:
    if frame.current is not None:
        load = _(frame.current.level.label)
        return _("Pass {number} of {total}: {load}", number=frame.passes_done + 1, total=passes, load=load)
    if frame.passes_done < passes:
        return _("Pass {number} of {total}: warming up", number=frame.passes_done + 1, total=passes)
    return _("All {total} passes are done", total=passes)


def _counts(lane: LaneLoad) -> str:
    text = _(
        "**{speed}** · {in_flight} in flight · {answered} answered · {tokens} tokens",
        speed=units.tok_per_s(lane.tok_per_s),
        in_flight=units.count(lane.in_flight),
        answered=units.count(lane.answered),
        tokens=units.count(lane.output_tokens),
    )
    if not lane.failed:
        return text
    return f"{text} · :red[{_('{n} failed', n=units.count(lane.failed))}]"


class WalkScene:
    """Draws into the container that is current when it is made. For one run of the script."""

    def __init__(self, run: WalkRun, timeline: WalkTimeline) -> None:
        self._run, self._timeline = run, timeline
        with st.container(height=_HEIGHT_PX, border=False, autoscroll=True):
            self._places = [st.empty() for _step in run.steps]
        self._drawn = 0
        self._under_way = ""

    def draw(self, at_s: float, *, final: bool) -> None:  # noqa: ARG002 - nothing is held back
        """Each step whole when it is over, and before that what is under way."""
        frame = self._timeline.frame(at_s)
        for place in range(self._drawn, frame.done):
            with self._places[place].container():
                show_step(place + 1, self._run.steps[place])
        self._drawn = frame.done
        if frame.done == len(self._places):
            return
        title = step_title(frame.done + 1, self._run.steps[frame.done])
        under_way = f":shimmer[{title}] · {units.duration(float(int(frame.elapsed_s)))}"
        if under_way != self._under_way:
            self._under_way = under_way
            self._places[frame.done].markdown(under_way)


def playback_of(name: str, duration_s: float, speed: float = 1.0) -> Playback:
    """The session's replay of that name; `speed` is the one that it begins with."""
    playback: Playback = st.session_state.setdefault(f"replay_{name}", Playback(duration_s, speed))
    return playback


def play_if_asked(playback: Playback) -> None:
    """Play from the beginning if the address asks for it, once."""
    if st.query_params.pop(PLAY, None) is not None:
        playback.seek(0.0, monotonic())
        playback.play(monotonic())


def show_player(name: str, playback: Playback, label: str, make_scene: Callable[[], Scene]) -> None:
    """The label of what is replayed, the controls, and the scene; `name` is unique on the page."""
    now_s = monotonic()
    is_playing = playback.is_playing(now_s)
    _show_controls(name, playback, label, now_s)
    bar = _show_place(name, playback, now_s)
    scene = make_scene()
    bar_due_s = 0.0
    while is_playing:
        now_s = monotonic()
        is_playing = playback.is_playing(now_s)
        if now_s >= bar_due_s:
            bar_due_s = now_s + _BAR_INTERVAL_S
            bar.progress(*_progress(playback, now_s))
        scene.draw(playback.position_s(now_s), final=False)
        # A click ends this run at the next access to the session's state.
        playback_of(name, playback.duration_s)
        if is_playing:
            sleep(_TICK_S)
        else:
            playback.pause(now_s)
            st.rerun()
    scene.draw(playback.position_s(now_s), final=True)


def _show_controls(name: str, playback: Playback, label: str, now_s: float) -> None:
    is_playing = playback.is_playing(now_s)
    with st.container(horizontal=True, vertical_alignment="center"):
        # Two buttons: a click on one whose last click began the run that it interrupts is lost.
        if is_playing:
            st.empty()
            st.button(
                _("Pause"),
                icon=":material/pause:",
                type="primary",
                key=f"replay_pause_{name}",
                on_click=lambda: playback.pause(monotonic()),
            )
        else:
            st.button(
                _("Play again") if playback.has_ended(now_s) else _("Play"),
                icon=":material/play_arrow:",
                type="primary",
                key=f"replay_play_{name}",
                on_click=lambda: playback.play(monotonic()),
            )
            st.empty()
        st.button(
            _("To the beginning"),
            icon=":material/skip_previous:",
            key=f"replay_begin_{name}",
            on_click=lambda: playback.seek(0.0, monotonic()),
        )
        st.button(
            _("To the end"),
            icon=":material/skip_next:",
            key=f"replay_end_{name}",
            on_click=lambda: playback.seek(playback.duration_s, monotonic()),
        )
        key = f"replay_speed_{name}"
        st.segmented_control(
            _("Speed"),
            SPEEDS,
            default=playback.speed,
            format_func=lambda speed: f"{speed:g}×",
            key=key,
            required=True,
            label_visibility="collapsed",
            on_change=lambda: playback.set_speed(st.session_state[key], monotonic()),
        )
        st.markdown(f":violet-badge[:material/replay: {label}]", width="content")


def _show_place(name: str, playback: Playback, now_s: float) -> DeltaGenerator:
    """A bar while it plays, and in its place a slider that jumps while it rests."""
    place = st.empty()
    if playback.is_playing(now_s):
        place.progress(*_progress(playback, now_s))
        return place
    key = f"replay_place_{name}"
    st.session_state[key] = min(round(playback.position_s(now_s), 2), playback.duration_s)
    place.slider(
        _("Place in the recording, in seconds"),
        0.0,
        max(playback.duration_s, _STEP_S),
        step=_STEP_S,
        key=key,
        label_visibility="collapsed",
        on_change=lambda: playback.seek(st.session_state[key], monotonic()),
    )
    return place


def _progress(playback: Playback, now_s: float) -> tuple[float, str]:
    position_s = playback.position_s(now_s)
    share = position_s / playback.duration_s if playback.duration_s else 1.0
    text = _(
        "{position} of {duration} · {speed}×",
        position=units.duration(position_s),
        duration=units.duration(playback.duration_s),
        speed=f"{playback.speed:g}",
    )
    return min(share, 1.0), text
