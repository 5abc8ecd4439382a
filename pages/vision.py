"""Vision: questions about pictures to several lanes, in conversation or as a quiz with known answers."""

import streamlit as st

from core.ui import chat_page, shell
from core.ui.rooms import VISION
from core.ui.vision_quiz import show_quiz

shell.require()

talk, quiz = st.tabs(
    [":material/forum: Conversation", ":material/quiz: Ask all"],
    on_change="rerun",
    key="vision_section",
)

if talk.open:
    chat_page.show(VISION, place=talk)

if quiz.open:
    with quiz:
        show_quiz(VISION)
