"""A conversation that has not begun: engines that are not ready yet, and prompts to begin with."""

import streamlit as st

from core.domain.examples import EXAMPLES
from core.ui import chat_actions, chat_controls
from core.ui.engine_status import show_cards
from core.ui.rooms import Room


def show_welcome(room: Room) -> None:
    # As a message, so that the browser has loaded what it needs for messages before the first answer comes.
    with st.chat_message("assistant", avatar=":material/speed:"):
        st.subheader("One prompt, every engine", anchor=False)
        st.markdown("Ask something below, or begin with an example.")
    with st.container(horizontal=True):
        for label, prompt in EXAMPLES.items():
            st.button(label, help=prompt, on_click=chat_actions.ask, args=(room, prompt))
    show_cards(chat_controls.picked(room))
