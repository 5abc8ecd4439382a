"""The player of a replay: play, pause, speed, and place, around whatever is shown again.

While it plays, the script's run draws one moment after another until it ends or a click ends it; nothing is
measured, sent or stored. It is no fragment: a click in a fragment waits until the fragment's run has ended.
"""

from collections.abc import Callable
from time import monotonic, sleep
from typing import Protocol

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core import units
from core.i18n import _
from core.replay.timelines import SPEEDS, Playback

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


def playback_of(name: str, duration_s: float, speed: float = 1.0) -> Playback:
    """The session's replay of that name; `speed` is the one that it begins with."""
    playback: Playback = st.session_state.setdefault(_key(name), Playback(duration_s, speed))
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


def _key(name: str) -> str:
    return f"replay_{name}"
