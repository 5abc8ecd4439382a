"""The start page: what LMDyno is, how the lanes are, and where to go on.

Each section is a module of its own that this page calls in order.
"""

import streamlit as st

from core.ui.chat.conversation_page import CHAT
from core.ui.chat.session import CONVERSATION
from core.ui.overview import first_run, introduction, lanes, present, scorecard
from core.ui.shared.presenting import presents, show_present_button


def show() -> None:
    _follow_old_link()
    if presents():
        present.show()
        return
    first_run.show()
    introduction.show()
    lanes.show()
    show_present_button()
    scorecard.show()


def _follow_old_link() -> None:
    """The chat was the start page once: links to conversations from then lead to it."""
    if CONVERSATION in st.query_params:
        st.switch_page(CHAT.file, query_params=st.query_params.to_dict())
