"""Overview: what LMDyno is, how the lanes are, and the scorecard of a model."""

import streamlit as st

from core.ui.chat.session import CHAT, CONVERSATION
from core.ui.overview import introduction, lanes, scorecard
from core.ui.shared import shell
from core.ui.shared.presenting import presents, show_present_button

shell.require()
if CONVERSATION in st.query_params:  # the chat was the start page once: links from then lead to it
    st.switch_page(CHAT.file, query_params=st.query_params.to_dict())
if presents():
    scorecard.show_presented()
    st.stop()

lanes.show_demo_progress()
introduction.show()
lanes.show()
show_present_button()
scorecard.show_scorecard()
