"""Overview: what LMDyno is, how the lanes are, and the scorecard of a model."""

import streamlit as st

from core.ui.chat.session import CHAT, CONVERSATION
from core.ui.overview.landing import show_demo_progress, show_introduction, show_lanes
from core.ui.overview.scorecard import show_presented, show_scorecard
from core.ui.shared import shell
from core.ui.shared.presenting import presents, show_present_button

shell.require()
if CONVERSATION in st.query_params:  # the chat was the start page once: links from then lead to it
    st.switch_page(CHAT.file, query_params=st.query_params.to_dict())
if presents():
    show_presented()
    st.stop()

show_demo_progress()
show_introduction()
show_lanes()
show_present_button()
show_scorecard()
