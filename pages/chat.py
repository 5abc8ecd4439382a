"""Chat: one prompt to several lanes, the answers side by side with their measured latency."""

import streamlit as st

from core.ui import chat_actions, chat_controls, conversations, resources, shell, state
from core.ui.components import escape, show_error
from core.ui.lanes import wait_until_done
from core.ui.turns import show_turn, show_turn_actions
from core.ui.welcome import show_welcome

shell.require()

book = resources.lanes()
chat = state.chat()
conversation = conversations.load(chat)
turns = conversation.turns
running = [turn.id for turn in conversation.running]
if turns:
    state.show_address(chat.conversation_id)

# --- Sidebar: what the next turn will be
chat_controls.prepare(book, turns[-1] if turns else None)
with st.sidebar:
    st.button(
        "New conversation",
        icon=":material/edit_square:",
        width="stretch",
        shortcut="Alt+N",
        on_click=state.new_conversation,
    )
    chat_controls.show(book)
    with st.expander("Recent conversations", icon=":material/history:"):
        for summary in conversations.recent():
            st.button(
                escape(summary.title),
                key=f"open_{summary.id}",
                type="tertiary",
                disabled=summary.id == chat.conversation_id,
                on_click=state.open_conversation,
                args=(summary.id,),
            )

# --- Bottom: prompt and Stop, there before any lane streams
with st.bottom:
    if running:
        st.button(
            "Stop",
            icon=":material/stop_circle:",
            type="primary",
            shortcut="Esc",
            on_click=chat_actions.stop,
            args=(running,),
            help="Ends all lanes; the text so far is kept",
        )
st.chat_input(
    "Answers are coming …" if running else "Ask all lanes",
    key=chat_actions.PROMPT,
    submit_mode="disable",
    disabled=bool(running),
    on_submit=chat_actions.submit,
)

# --- Main area: problems, welcome, turns, actions; each in its fixed place (see `show_turn`)
if problems := [problem for problem in (chat.problem, conversation.problem) if problem]:
    with st.container():
        for problem in problems:
            show_error(problem)
else:
    st.empty()

if turns:
    st.empty()
else:
    with st.container():
        show_welcome()

lanes = []
with st.container():
    for place, turn in enumerate(turns):
        with state.place_of(turn.id, place):
            lanes += show_turn(turn, baseline=chat_controls.baseline(), latest=turn is turns[-1])

if running:
    st.empty()
    if wait_until_done(lanes):
        state.keep(lane.request for lane in lanes)
        st.rerun()  # draws the turns from their records, now with chart and comparison
elif turns:
    show_turn_actions(turns[-1])
