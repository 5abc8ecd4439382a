"""The replays of stored entries, each with its label, and of a whole recording as a show of its parts."""

from collections.abc import Callable
from functools import cache
from typing import Protocol, TypeVar

import streamlit as st

from core.domain.bench import BenchRecord
from core.domain.turns import ErrorInfo, Machine, TurnRecord
from core.domain.walk import WalkRun
from core.errors import InputError
from core.i18n import _
from core.replay.programme import Part, Programme, Source
from core.replay.recording import origin
from core.replay.timelines import LoadTimeline, TurnTimeline, WalkTimeline
from core.telemetry.machine import describe_machine
from core.ui.replay.player import Scene, playback_of, show_player
from core.ui.replay.scenes import LoadScene, TurnScene, WalkScene
from core.ui.shared.components import escape, show_error

LONG_S = 30.0
"""Longer replays begin at a speed at which they take about as long."""
_SPEEDS = (1.0, 2.0, 5.0, 10.0, 20.0)
_TIMELINE = "replay_timeline"


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
                st.markdown(_head(place.part + 1, len(self._programme.parts), part))
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


def _head(number: int, total: int, part: Part) -> str:
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
