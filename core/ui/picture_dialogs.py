"""Two more ways to a picture: the gallery that comes with LMDyno, and the camera."""

from collections.abc import Sequence

import streamlit as st

from core.domain.pictures import MAX_PICTURES
from core.pictures.gallery import GalleryPicture, gallery
from core.ui import state, tray
from core.ui.components import escape, show_error
from core.ui.picture_context import counted
from core.ui.rooms import Room

_COLUMNS = 6
_MIN_WIDTH_PX = 110
_SECTIONS = {
    "scene": "**Drawn scenes** · what the demo model knows",
    "photo": "**Photographs** · for your own models: the demo model knows drawn scenes only",
}


@st.dialog("Pictures to ask about", width="large", icon=":material/photo_library:")
def open_gallery(room: Room) -> None:
    """Thumbnails by kind; each click adds one to the tray, and the dialog stays open for more."""
    for kind, title in _SECTIONS.items():
        if pictures := [picture for picture in gallery() if picture.kind == kind]:
            st.markdown(title)
            _show_grid(room, pictures)
    chat = state.chat(room)
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
        tray.add_data(room, photo.getvalue(), "camera.jpg")
        st.rerun()


def add_from_gallery(room: Room, picture: GalleryPicture) -> None:
    tray.add_data(room, picture.path.read_bytes(), picture.path.name)


def origin(picture: GalleryPicture) -> str:
    """Where a picture comes from and how it may be used."""
    return escape(f"{picture.title}. {picture.licence}. Source: {picture.source}")


def _show_grid(room: Room, pictures: Sequence[GalleryPicture]) -> None:
    chosen = [picture.name for picture in state.chat(room).tray]
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
