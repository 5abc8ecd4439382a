"""What one browser session remembers of its conversations, one for each room.

The conversation's id stands in the address as well (`?conversation=…`), so that a reload or a link finds it
again. What was said is in the store; the session's own turns bridge the time until they are there, and stand
in for a store that can't be used. Of images only what describes them is kept here, never their bytes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic, sleep

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.domain.images import StoredImage
from core.domain.turns import ErrorInfo, RequestRecord, TurnRecord, new_id
from core.ui.chat.conversation_page import ConversationPage

CONVERSATION = "conversation"
_OPENED = "chat_opened_s"
_FLUSH_S = 0.05
"""Streamlit sends every 5 ms, and only the last of what was written to one place in between."""


@dataclass(slots=True)
class ChatState:
    conversation_id: str = field(default_factory=new_id)
    turns: dict[str, TurnRecord] = field(default_factory=dict)
    """Turns of this conversation that this session started or followed, as last seen."""
    attachments: tuple[StoredImage, ...] = ()
    """Images chosen for the next prompt."""
    problems: tuple[ErrorInfo, ...] = ()
    """Why the last prompt was not sent, or images were not taken."""


def chat(page: ConversationPage) -> ChatState:
    """The session's conversation in this room; one named in the address wins."""
    opened_s()
    named = st.query_params.get(CONVERSATION)
    state: ChatState | None = st.session_state.get(page.key("state"))
    if state is None or (named and named != state.conversation_id):
        state = ChatState(conversation_id=named) if named else ChatState()
        st.session_state[page.key("state")] = state
    return state


def opened_s() -> float:
    """When this session began, by `time.monotonic()`; a page that is loaded again begins a new one."""
    opened: float = st.session_state.setdefault(_OPENED, monotonic())
    return opened


def open_conversation(page: ConversationPage, conversation_id: str) -> None:
    st.session_state[page.key("state")] = ChatState(conversation_id=conversation_id)
    show_address(conversation_id)


def new_conversation(page: ConversationPage) -> None:
    st.session_state[page.key("state")] = ChatState()
    st.query_params.pop(CONVERSATION, None)


def show_address(conversation_id: str) -> None:
    """Put the conversation into the browser's address, so that a reload comes back to it."""
    if st.query_params.get(CONVERSATION) != conversation_id:
        st.query_params[CONVERSATION] = conversation_id


def keep(page: ConversationPage, requests: Iterable[RequestRecord]) -> None:
    """Remember finished requests of this conversation, in case the store can't."""
    by_id = {request.id: request for request in requests}
    turns = chat(page).turns
    for turn in turns.values():
        now = tuple(by_id.get(request.id, request) for request in turn.requests)
        turns[turn.id] = replace(turn, requests=now)


def places_of(page: ConversationPage, turn_ids: Sequence[str]) -> list[DeltaGenerator]:
    """A container for each of the conversation's turns, without anything of another turn.

    A container inherits what the one before it held in its place until the run ends, which for a streaming
    turn is long. Emptied, and the emptiness sent, it inherits nothing. The places behind the last turn, where
    a longer conversation had its own, are emptied too.
    """
    key = page.key("turns_shown")
    before: Sequence[str] = st.session_state.get(key, ())
    is_other = [place < len(before) and before[place] != turn for place, turn in enumerate(turn_ids)]
    slots = [st.empty() if other else st.container() for other in is_other]
    for _ in before[len(turn_ids) :]:
        st.empty()
    st.session_state[key] = (*turn_ids, *before[len(turn_ids) :])
    if any(is_other):
        sleep(_FLUSH_S)
    return [slot.container() if other else slot for slot, other in zip(slots, is_other, strict=True)]


def tick() -> None:
    """A yield point that sends nothing: Streamlit ends a superseded run at any access to session state."""
    st.session_state.get(_OPENED)
