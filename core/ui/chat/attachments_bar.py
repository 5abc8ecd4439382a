"""The tray above the prompt: thumbnails of the chosen pictures, and the ways to add more."""

from collections.abc import Sequence

import streamlit as st

from core.domain.conversation import messages_for
from core.domain.pictures import MAX_PICTURES, Picture
from core.domain.specs import LaneSpec
from core.domain.turn_planning import history
from core.domain.turns import TurnRecord
from core.pictures.gallery import GalleryPicture, gallery
from core.ui.chat import attachments
from core.ui.chat import session as chat_session
from core.ui.chat.room import Room
from core.ui.shared.components import escape, lane_label, show_error
from core.ui.shared.picture_text import counted, preview
from core.ui.shared.picture_views import facts, show_picture

_TRAY_PX = 96


_COLUMNS = 6
_MIN_WIDTH_PX = 110
_SECTIONS = {
    "scene": "**Drawn scenes** · what the demo model knows",
    "photo": "**Photographs** · for your own models: the demo model knows drawn scenes only",
}


def show_pictures(room: Room) -> None:
    """The thumbnails of the tray, also while answers come."""
    chosen = chat_session.chat(room).tray
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
                    on_click=attachments.remove,
                    args=(room, picture),
                )
        for _ in range(len(chosen), MAX_PICTURES):
            st.empty()


def show_ways_to_add(room: Room, lanes: Sequence[LaneSpec], turns: Sequence[TurnRecord]) -> None:
    """Gallery and camera, and what the picked lanes make of the pictures that are chosen."""
    chosen = chat_session.chat(room).tray
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
                on_click=attachments.forget_problems,
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


@st.dialog("Pictures to ask about", width="large", icon=":material/photo_library:")
def open_gallery(room: Room) -> None:
    """Thumbnails by kind; each click adds one to the tray, and the dialog stays open for more."""
    for kind, title in _SECTIONS.items():
        if pictures := [picture for picture in gallery() if picture.kind == kind]:
            st.markdown(title)
            _show_grid(room, pictures)
    chat = chat_session.chat(room)
    with st.container():
        for problem in chat.problems:
            show_error(problem)
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.caption(f"{len(chat.tray)} of {counted(MAX_PICTURES)} chosen", width="content")
        if st.button("Done", type="primary", key=room.key("gallery_done")):
            st.rerun()


@st.dialog("Take a picture", icon=":material/photo_camera:")
def open_camera(room: Room) -> None:
    st.caption("No model sees the picture before you ask about it.")
    photo = st.camera_input("Camera", key=room.key("camera_picture"), label_visibility="collapsed")
    if photo and st.button("Use it", type="primary", key=room.key("camera_use")):
        attachments.add_data(room, photo.getvalue(), "camera.jpg")
        st.rerun()


def add_from_gallery(room: Room, picture: GalleryPicture) -> None:
    attachments.add_data(room, picture.path.read_bytes(), picture.path.name)


def origin(picture: GalleryPicture) -> str:
    """Where a picture comes from and how it may be used."""
    return escape(f"{picture.title}. {picture.licence}. Source: {picture.source}")


def _show_grid(room: Room, pictures: Sequence[GalleryPicture]) -> None:
    chosen = [picture.name for picture in chat_session.chat(room).tray]
    grid = st.grid(_COLUMNS, min_column_width=_MIN_WIDTH_PX)
    for picture in pictures:
        with grid.cell():
            st.image(str(picture.path), width="stretch", alt=picture.title)
            is_chosen = picture.path.name in chosen
            st.button(
                "Added" if is_chosen else "Add",
                key=room.key(f"gallery_{picture.name}"),
                icon=":material/check:" if is_chosen else ":material/add:",
                width="stretch",
                help=origin(picture),
                disabled=is_chosen or len(chosen) >= MAX_PICTURES,
                on_click=add_from_gallery,
                args=(room, picture),
            )
