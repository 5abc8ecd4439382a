"""Recordings: the 60-second demo, and each part of what another machine measured with its own player."""

import streamlit as st

from core.domain.runs import BenchRecord
from core.domain.turns import TurnRecord
from core.errors import LMDynoError
from core.i18n import _
from core.replay.recording import Recording, recordings_in
from core.replay.timelines import Part, Programme, programme
from core.settings import load_settings
from core.ui.replay import (
    ShowScene,
    origin_of,
    play_if_asked,
    playback_of,
    show_load_replay,
    show_player,
    show_turn_replay,
    show_walk_replay,
    title_of,
)
from core.ui.shared import shell
from core.ui.shared.components import escape, show_error


def _show() -> None:
    try:
        recordings = recordings_in(load_settings().recordings_dir)
    except LMDynoError as error:
        show_error(error)
        return
    if not recordings:
        st.info(_("No recording comes with this version of LMDyno."), icon=":material/movie:")
        return
    titles = {key: _titled(recording) for key, recording in recordings.items()}
    name = next(iter(recordings))
    if len(recordings) > 1:
        name = st.selectbox(_("Recording"), list(titles), format_func=titles.__getitem__)
    shown = programme(recordings[name])
    if not shown.parts:
        st.info(_("Nothing in this recording can be replayed."), icon=":material/movie:")
        return
    choices = [_("The 60-second demo"), *(title_of(part) for part in shown.parts)]
    chosen = st.selectbox(
        _("Show"),
        range(len(choices)),
        format_func=choices.__getitem__,
        key=f"recording_part_{name}",
        help=_(
            "What a machine measured, shown again with its original timing. No engine runs, and nothing is "
            "added to your history."
        ),
    )
    if chosen:
        _show_part(shown.parts[chosen - 1])
    else:
        _show_demo(name, shown)


def _titled(recording: Recording) -> str:
    return f"{recording.title} · {recording.recorded_at:%Y-%m-%d}"


def _show_demo(name: str, shown: Programme) -> None:
    playback = playback_of(f"show_{name}", shown.duration_s)
    play_if_asked(playback)
    label = origin_of(shown.parts[0].source)
    show_player(f"show_{name}", playback, escape(label), lambda: ShowScene(shown, label))


def _show_part(part: Part) -> None:
    match part.source:
        case TurnRecord():
            show_turn_replay(part.source)
        case BenchRecord():
            show_load_replay(part.source)
        case _:
            show_walk_replay(part.source)


shell.require()
_show()
