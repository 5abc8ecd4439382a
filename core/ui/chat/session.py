"""The pages that hold conversations, and what one browser session remembers on each of them.

What the pages offer differs, all the rest is the same code for both. The conversation's id stands in the
address as well (`?conversation=…`), so that a reload or a link finds it again. What was said is with the
meter and in the store. Of images only what describes them is kept here, never their bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic, sleep

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.domain.conversation import StoredImage
from core.domain.specs import LaneSpec
from core.domain.turn_planning import MAX_LANES
from core.domain.turns import ErrorInfo, TurnRecord, new_id
from core.i18n import N_, Message
from core.models.vision.model import is_for_images, refusal

CONVERSATION = "conversation"
_OPENED = "chat_opened_s"
_EXPANDED = "expanded_turns"
_ASKED = "chat_asked"
_IS_STILL = "chat_sidebar_is_still"
_FLUSH_S = 0.05
"""Streamlit sends every 5 ms, and only the last of what was written to one place in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationPage:
    """One such page; each has its own settings and its own open conversation in a browser session."""

    name: str
    """Begins the keys of its widgets and of what the session remembers for it."""
    file: str
    """The page's file, as Streamlit's navigation knows it."""
    invitation: Message
    """Stands in the empty prompt."""
    takes_images: bool

    def key(self, what: str) -> str:
        return f"{self.name}_{what}"

    def offered(self, lanes: Sequence[LaneSpec]) -> tuple[LaneSpec, ...]:
        """The lanes that can be picked."""
        return tuple(lane for lane in lanes if not self.takes_images or refusal(lane) is None)

    def picked_at_first(self, lanes: Sequence[LaneSpec]) -> list[str]:
        """Of the offered lanes those that a new session has picked; at least one, if there is any.

        Engines for images are left to the vision page; a server that sees answers text as well.
        """
        offered = self.offered(lanes)
        fitting = [
            lane
            for lane in offered
            if is_for_images(lane) == self.takes_images or (lane.endpoint and not self.takes_images)
        ]
        return [lane.name for lane in (fitting or offered)[:MAX_LANES]]


CHAT = ConversationPage(
    name="chat", file="pages/chat.py", invitation=N_("Ask all lanes (press / to write)"), takes_images=False
)
VISION = ConversationPage(
    name="vision",
    file="pages/vision.py",
    invitation=N_("Ask all lanes (press / to write); paste, drop, or attach images"),
    takes_images=True,
)


@dataclass(slots=True)
class ChatState:
    conversation_id: str = field(default_factory=new_id)
    address: str | None = None
    """The id in the address that this conversation was opened by, whether or not there is such a one."""
    attachments: tuple[StoredImage, ...] = ()
    """Images chosen for the next prompt."""
    problems: tuple[ErrorInfo, ...] = ()
    """Reasons why the last prompt was not sent, or images were not taken."""
    warning: ErrorInfo | None = None
    """The warning to be confirmed by sending the last prompt once more, unchanged."""
    warned_of: str = ""
    """The prompt that the warning was about."""
    repeats_left: int = 0
    """How often the last prompt is asked again when its answers are there."""
    versions: dict[str, TurnRecord] = field(default_factory=dict)
    """Turns that later ones replaced, as the store has them."""
    closed: ErrorInfo | None = None
    """The reason why the address led to no conversation; the next prompt begins one."""


def chat(page: ConversationPage) -> ChatState:
    """The session's conversation on this page; one named in the address wins."""
    opened_s()
    named = st.query_params.get(CONVERSATION)
    state: ChatState | None = st.session_state.get(page.key("state"))
    if state is None or (named and named not in (state.conversation_id, state.address)):
        state = ChatState(conversation_id=named, address=named) if named else ChatState()
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


def close(state: ChatState, reason: ErrorInfo) -> None:
    """Begin another conversation in the place of one that can't be opened."""
    state.conversation_id, state.closed = new_id(), reason


def show_address(conversation_id: str) -> None:
    """Put the conversation into the browser's address, so that a reload comes back to it."""
    if st.query_params.get(CONVERSATION) != conversation_id:
        st.query_params[CONVERSATION] = conversation_id


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


def expanded() -> set[str]:
    """The turns whose long answers this session shows in full, by their ids."""
    turns: set[str] = st.session_state.setdefault(_EXPANDED, set())
    return turns


def note_asked() -> None:
    """A turn was started, so the run that follows will do nothing but follow it."""
    st.session_state[_ASKED] = True


def sidebar_refreshes() -> bool:
    """Whether what refreshes itself outside of the conversation is to do so in this run; ask once a run.

    While a run follows answers no timer's fragment can run, and yet each of a crowd's timers costs a message
    a second.
    """
    st.session_state[_IS_STILL] = st.session_state.pop(_ASKED, False)
    return not st.session_state[_IS_STILL]


def wake_sidebar() -> None:
    """Draw the page again if its sidebar would else stay still although nothing is followed."""
    if st.session_state.get(_IS_STILL):
        st.rerun()


def tick() -> None:
    """A yield point that sends nothing: Streamlit ends a superseded run at any access to session state."""
    st.session_state.get(_OPENED)
