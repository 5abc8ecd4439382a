"""A conversation about pictures that has not begun: drawn scenes to begin with, and what is not ready yet."""

import streamlit as st

from core.pictures.gallery import GalleryPicture, gallery
from core.ui import chat_actions, chat_controls, resources, state
from core.ui.components import escape
from core.ui.engine_status import show_cards
from core.ui.picture_dialogs import add_from_gallery, origin
from core.ui.rooms import Room
from core.ui.vision_prepare import needs_preparing, show_preparing

_SCENES = 4
_SCENE_PX = 180


def show_vision_welcome(room: Room) -> None:
    # As a message, so that the browser has loaded what it needs for messages before the first answer comes.
    with st.chat_message("assistant", avatar=":material/imagesmode:"):
        st.subheader("One picture, every engine", anchor=False)
        st.markdown("Add pictures below and ask about them, or begin with a drawn scene.")
    if needs_preparing(chat_controls.picked_lanes(room, resources.lanes().lanes)):
        show_preparing()
    else:
        _show_scenes(room)
        show_cards(chat_controls.picked(room))


def ask_about(room: Room, picture: GalleryPicture) -> None:
    """Ask the scene's first question, with that picture and nothing else."""
    chat = state.chat(room)
    chat.tray = ()
    add_from_gallery(room, picture)
    if chat.tray and chat_actions.send(room, picture.questions[0].question, chat.tray):
        chat.tray = ()


def _show_scenes(room: Room) -> None:
    scenes = [picture for picture in gallery() if picture.kind == "scene" and picture.questions]
    with st.container(horizontal=True):
        for picture in scenes[:_SCENES]:
            with st.container(width=_SCENE_PX):
                st.image(str(picture.path), width="stretch", alt=picture.title)
                st.button(
                    escape(picture.questions[0].question),
                    key=room.key(f"begin_{picture.name}"),
                    width="stretch",
                    help=origin(picture),
                    on_click=ask_about,
                    args=(room, picture),
                )
