"""The replays of stored entries, each with its label."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import streamlit as st

from core.domain.bench import BenchRecord
from core.domain.turns import ErrorInfo, TurnRecord
from core.domain.walk import WalkRun
from core.errors import InputError
from core.replay.load import LoadTimeline
from core.replay.turns import TurnTimeline
from core.replay.walk import WalkTimeline
from core.ui.replay.load_scene import LoadScene
from core.ui.replay.player import Scene, playback_of, show_player
from core.ui.replay.show_scene import origin_of
from core.ui.replay.turn_scene import TurnScene
from core.ui.replay.walk_scene import WalkScene
from core.ui.shared.components import escape, show_error

LONG_S = 30.0
"""What takes longer begins at a speed at which it takes about as long."""
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
