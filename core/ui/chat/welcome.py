"""A conversation that has not begun: engines that are not ready yet, and prompts to begin with."""

import streamlit as st

from core.domain.examples import EXAMPLES
from core.pictures.gallery import GalleryPicture, gallery
from core.ui.chat import actions as chat_actions
from core.ui.chat import session as chat_session
from core.ui.chat import settings as chat_controls
from core.ui.chat.attachments_bar import add_from_gallery, origin
from core.ui.chat.demo_vision import needs_preparing, show_preparing
from core.ui.chat.room import Room
from core.ui.engines.status import show_cards
from core.ui.shared import resources
from core.ui.shared.components import escape

_SCENES = 4
_SCENE_PX = 180


def show_welcome(room: Room) -> None:
    # As a message, so that the browser has loaded what it needs for messages before the first answer comes.
    with st.chat_message("assistant", avatar=":material/speed:"):
        st.subheader("One prompt, every engine", anchor=False)
        st.markdown("Ask something below, or begin with an example.")
    with st.container(horizontal=True):
        for label, prompt in EXAMPLES.items():
            st.button(label, help=prompt, on_click=chat_actions.ask, args=(room, prompt))
    show_cards(chat_controls.picked(room))


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
    chat = chat_session.chat(room)
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
