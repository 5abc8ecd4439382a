"""A page that holds a conversation: the chat's and the vision page's, by the same code.

Changing what is drawn where needs care: every part has its fixed place (see `turns.show_turn`).
"""

from collections.abc import Sequence
from contextlib import nullcontext

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.access.guard import Action, may
from core.domain.specs import LaneSpec
from core.domain.turns import TurnRecord
from core.ui.chat import actions as chat_actions
from core.ui.chat import attachments_bar
from core.ui.chat import conversation as conversations
from core.ui.chat import session as chat_session
from core.ui.chat import settings as chat_controls
from core.ui.chat.answers import RunningLane, wait_until_done
from core.ui.chat.conversation import Conversation
from core.ui.chat.conversation_page import VISION, ConversationPage
from core.ui.chat.demo_vision import show_limits, show_no_lanes, show_refused
from core.ui.chat.turn import show_turn, show_turn_actions
from core.ui.chat.welcome import show_vision_welcome, show_welcome
from core.ui.shared import resources
from core.ui.shared.components import escape, show_error
from core.ui.shared.rights import is_mine


def show(page: ConversationPage, place: DeltaGenerator | None = None) -> None:
    """Draw the room's conversation, with its sidebar and its prompt; follows what still runs.

    Call it in the page's own body, where alone Streamlit keeps a page with a prompt scrolled to its end;
    `place` is where the conversation itself goes.
    """
    registry = resources.lanes()
    offered = page.offered(registry.lanes)
    chat = chat_session.chat(page)
    conversation = conversations.load(chat)
    turns = conversation.turns
    if not page.takes_images and any(turn.images for turn in turns):
        _move_to_vision(page, chat.conversation_id)
    if turns:
        chat_session.show_address(chat.conversation_id)
    if not offered:
        with place or nullcontext():
            show_no_lanes(registry.lanes)
        return
    chat_controls.prepare(page, offered, turns[-1] if turns else None)
    with st.sidebar:
        _show_sidebar(page, offered)
    _show_prompt(page, conversation)
    with place or nullcontext():
        _show_conversation(page, conversation)


def _move_to_vision(page: ConversationPage, conversation_id: str) -> None:
    """Open a conversation with images where they can be seen; this room begins a new one."""
    chat_session.new_conversation(page)
    st.switch_page(VISION.file, query_params={chat_session.CONVERSATION: conversation_id})


def _show_sidebar(page: ConversationPage, offered: Sequence[LaneSpec]) -> None:
    """What the next turn will be, and the way to other conversations."""
    st.button(
        "New conversation",
        icon=":material/edit_square:",
        width="stretch",
        shortcut="Alt+N",
        on_click=chat_session.new_conversation,
        args=(page,),
    )
    chat_controls.show(page, offered)
    if page.takes_images:
        show_refused(resources.lanes().lanes)
    with st.expander("Recent conversations", icon=":material/history:"):
        for summary in conversations.recent(page):
            st.button(
                escape(summary.title),
                key=f"open_{summary.id}",
                type="tertiary",
                disabled=summary.id == chat_session.chat(page).conversation_id,
                on_click=chat_session.open_conversation,
                args=(page, summary.id),
            )


def _show_prompt(page: ConversationPage, conversation: Conversation) -> None:
    """Prompt and Stop, there before any lane streams; with images the tray above them.

    The prompt stays open meanwhile: a disabled one loses the focus, and `submit_mode="disable"` can stay
    disabled for good when a fragment's run ends right after the script's.
    """
    running = [turn.id for turn in conversation.running]
    stoppable = [turn.id for turn in conversation.running if may(Action.STOP_ANSWER, owner=turn.owner)]
    # The container keeps the prompt's place: moved by a button before it, it would be made anew, without what
    # is being written there.
    with st.bottom, st.container():
        if stoppable:
            st.button(
                "Stop",
                icon=":material/stop_circle:",
                type="primary",
                shortcut="Esc",
                on_click=chat_actions.stop,
                args=(stoppable,),
                help="Ends all lanes; the text so far is kept",
            )
        else:
            st.empty()
        if page.takes_images:
            _show_tray(page, conversation)
    st.chat_input(
        "Answers are coming …" if running else page.invitation,
        key=page.key("prompt"),
        accept_file="multiple" if page.takes_images else False,
        file_type="image" if page.takes_images else None,
        on_submit=chat_actions.submit,
        args=(page,),
    )


def _show_tray(page: ConversationPage, conversation: Conversation) -> None:
    attachments_bar.show_images(page)
    if conversation.running:  # a dialog would not open before the answers' end
        st.empty()
        return
    with st.container():
        turns = conversation.turns
        picked = chat_controls.picked_lanes(page, resources.lanes().lanes)
        attachments_bar.show_ways_to_add(page, picked, turns)
        images = [image for turn in turns for image in turn.images]
        show_limits(picked, [*images, *chat_session.chat(page).attachments])


def _show_conversation(page: ConversationPage, conversation: Conversation) -> None:
    turns = conversation.turns
    running = _show_turns(page, turns)
    _show_problems(page, conversation)  # near the prompt: a page that is kept at its end hides its beginning
    if conversation.running:
        st.empty()
        if wait_until_done(running):
            chat_session.keep(page, (lane.request for lane in running))
            st.rerun()  # draws the turns from their records, now with chart and comparison
    elif turns and is_mine(turns[0].owner):
        show_turn_actions(page, turns[-1])


def _show_problems(page: ConversationPage, conversation: Conversation) -> None:
    problems = [*chat_session.chat(page).problems]
    if conversation.problem:
        problems.append(conversation.problem)
    if problems:
        with st.container():
            for problem in problems:
                show_error(problem)
    else:
        st.empty()


def _show_turns(page: ConversationPage, turns: Sequence[TurnRecord]) -> list[RunningLane]:
    """The conversation, or the welcome in its place; returns the lanes that still run."""
    if turns:
        st.empty()
    else:
        with st.container():
            if page.takes_images:
                show_vision_welcome(page)
            else:
                show_welcome(page)
    running: list[RunningLane] = []
    with st.container():
        places = chat_session.places_of(page, [turn.id for turn in turns])
        for turn, place in zip(turns, places, strict=True):
            with place:
                running += show_turn(turn, baseline=chat_controls.baseline(page), latest=turn is turns[-1])
    return running
