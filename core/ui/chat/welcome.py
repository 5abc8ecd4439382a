"""A conversation without any turn: the state of its engines, and prompts to start with."""

import streamlit as st

from core.domain.examples import EXAMPLES
from core.i18n import _
from core.images.gallery import GalleryImage, gallery
from core.ui.chat import actions as chat_actions
from core.ui.chat import session as chat_session
from core.ui.chat import settings as chat_controls
from core.ui.chat.attachments_bar import add_from_gallery, origin
from core.ui.chat.conversation_page import ConversationPage
from core.ui.chat.demo_vision import needs_preparing, show_preparing
from core.ui.engines.status import show_cards
from core.ui.shared import resources
from core.ui.shared.components import escape

_SCENES = 4
_SCENE_PX = 180


def show_welcome(page: ConversationPage) -> None:
    # As a message, so that the browser has loaded what it needs for messages before the first answer comes.
    with st.chat_message("assistant", avatar=":material/speed:"):
        st.subheader(_("One prompt, every engine"), anchor=False)
        st.markdown(_("Ask something below, or start with an example."))
    with st.container(horizontal=True):
        for label, prompt in EXAMPLES.items():
            st.button(_(label), help=prompt, on_click=chat_actions.ask, args=(page, prompt))
    show_cards(chat_controls.picked(page))


def show_vision_welcome(page: ConversationPage) -> None:
    # As a message, so that the browser has loaded what it needs for messages before the first answer comes.
    with st.chat_message("assistant", avatar=":material/imagesmode:"):
        st.subheader(_("One image, every engine"), anchor=False)
        st.markdown(_("Add images below and ask about them, or start with a drawn scene."))
    if needs_preparing(chat_controls.picked_lanes(page, resources.lanes().lanes)):
        show_preparing()
    else:
        _show_scenes(page)
        show_cards(chat_controls.picked(page))


def ask_about(page: ConversationPage, image: GalleryImage) -> None:
    """Ask the scene's first question, with that image and nothing else."""
    chat = chat_session.chat(page)
    chat.attachments = ()
    add_from_gallery(page, image)
    if chat.attachments and chat_actions.send(page, image.questions[0].question, chat.attachments):
        chat.attachments = ()


def _show_scenes(page: ConversationPage) -> None:
    scenes = [image for image in gallery() if image.kind == "scene" and image.questions]
    with st.container(horizontal=True):
        for image in scenes[:_SCENES]:
            with st.container(width=_SCENE_PX):
                st.image(str(image.path), width="stretch", alt=_(image.title))
                st.button(
                    escape(image.questions[0].question),
                    key=page.key(f"begin_{image.name}"),
                    width="stretch",
                    help=origin(image),
                    on_click=ask_about,
                    args=(page, image),
                )
