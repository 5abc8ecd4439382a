"""The tray above the prompt: thumbnails of the chosen pictures, and the ways to add more."""

from collections.abc import Sequence

import streamlit as st

from core.domain.conversation import messages_for
from core.domain.pictures import MAX_PICTURES, Picture
from core.domain.runs import TurnRecord
from core.domain.specs import LaneSpec
from core.ui import state, tray
from core.ui.components import lane_label
from core.ui.picture_context import counted, preview
from core.ui.picture_dialogs import open_camera, open_gallery
from core.ui.picture_views import facts, show_picture
from core.ui.planning import history
from core.ui.rooms import Room

_TRAY_PX = 96


def show_pictures(room: Room) -> None:
    """The thumbnails of the tray, also while answers come."""
    chosen = state.chat(room).tray
    if not chosen:
        st.empty()
        return
    with st.container(horizontal=True, gap="small", key=room.key("tray")):
        for picture in chosen:
            with st.container(width=_TRAY_PX, gap="xsmall"):
                show_picture(picture)
                st.button(
                    "Remove",
                    icon=":material/close:",
                    type="tertiary",
                    key=room.key(f"remove_{picture.sha256}"),
                    help=facts(picture),
                    on_click=tray.remove,
                    args=(room, picture),
                )
        for _ in range(len(chosen), MAX_PICTURES):
            st.empty()


def show_ways_to_add(room: Room, lanes: Sequence[LaneSpec], turns: Sequence[TurnRecord]) -> None:
    """Gallery and camera, and what the picked lanes make of the pictures that are chosen."""
    chosen = state.chat(room).tray
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        full = len(chosen) >= MAX_PICTURES
        for label, icon, open_dialog in (
            ("Gallery", ":material/photo_library:", open_gallery),
            ("Camera", ":material/photo_camera:", open_camera),
        ):
            if st.button(
                label,
                icon=icon,
                key=room.key(label.lower()),
                disabled=full,
                on_click=tray.forget_problems,
                args=(room,),
            ):
                open_dialog(room)
        if chosen:
            st.caption(_summary(chosen, lanes, turns), width="content")


def _summary(chosen: tuple[Picture, ...], lanes: Sequence[LaneSpec], turns: Sequence[TurnRecord]) -> str:
    """How many of how many, and what each picked lane makes of them, where that is known."""
    parts = [f"{len(chosen)} of {counted(MAX_PICTURES)}"]
    for lane in lanes:
        messages = messages_for("", earlier=history(lane.name, turns), pictures=chosen)
        if known := preview(lane, messages):
            parts.append(f"{lane_label(lane.name)} {known}")
    return " · ".join(parts)
