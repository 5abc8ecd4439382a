"""The pages that hold conversations: what a session remembers on each, and the open one as it stands now.

What the pages offer differs, all the rest is the same code for both. The conversation's id stands in the
address as well (`?conversation=…`), so that a reload or a link finds it again. Of images only what describes
them is kept here, never their bytes. The meter owns what runs and what is not stored yet, the store what is
finished. Reading changes nothing that is stored.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic, sleep

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.domain.conversation import StoredImage
from core.domain.specs import LaneSpec
from core.domain.turns import MAX_LANES, ErrorInfo, Phase, RequestRecord, TurnRecord, merge_turns, new_id
from core.errors import AccessDenied, InputError, StoreError
from core.i18n import N_, Message
from core.meter.protocol import Update
from core.models.vision import is_for_images, refusal
from core.store.records import ConversationSummary
from core.ui.shared import resources

CONVERSATION = "conversation"
_OPENED = "chat_opened_s"
_EXPANDED = "expanded_turns"
_ASKED = "chat_asked"
_IS_STILL = "chat_sidebar_is_still"
_KEYS = "chat_keys"
_MOST_KEYS = 32
"""For each kind of widget; more than a page shows at once."""
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


def key_of(kind: str, item_id: str) -> str:
    """The key of the item's widget, of which a page shows no more than a few.

    Until a session ends, Streamlit keeps a description of each key's widget, with its arguments. So keys are
    used again: an item has the same one until many others had theirs.
    """
    numbers: dict[str, int] = st.session_state.setdefault(_KEYS, {}).setdefault(kind, {})
    number = numbers.pop(item_id, None)
    if number is None:
        is_full = len(numbers) >= _MOST_KEYS
        number = numbers.pop(next(iter(numbers))) if is_full else len(numbers)
    numbers[item_id] = number
    return f"{kind}_{number}"


def tick() -> None:
    """A yield point that sends nothing: Streamlit ends a superseded run at any access to session state."""
    st.session_state.get(_OPENED)


UNKNOWN = ErrorInfo(
    "unknown-conversation",
    N_("There is no conversation at this address"),
    N_("It was deleted, or it belongs to another machine. What you ask here begins a new conversation."),
)
POLL_S = 1.0
TICK_S = 0.2
"""How soon a click is noticed while no text comes; each look wakes a thread, for every lane."""
_MOST_VERSIONS = 50


@dataclass(frozen=True, slots=True)
class Conversation:
    turns: tuple[TurnRecord, ...]
    """Oldest first, without those that were replaced."""
    problem: ErrorInfo | None = None
    """The error that kept the store from being read or written."""
    last_turn_id: str | None = None
    """The turn that the meter started last."""

    @property
    def running(self) -> tuple[TurnRecord, ...]:
        return tuple(turn for turn in self.turns if not turn.done)


def load(chat: ChatState) -> Conversation:
    # The meter first: what it no longer holds, the store has by then.
    held = resources.meter().conversation(chat.conversation_id)
    problem = held.store_problem
    try:
        stored = resources.store().conversation(chat.conversation_id)
    except StoreError as error:
        stored, problem = (), ErrorInfo.of(error)
    except AccessDenied as error:
        # Nothing may be added to it either.
        close(chat, ErrorInfo.of(error))
        return Conversation((), problem)
    turns = tuple(_with_lost(turn, held.lost) for turn in merge_turns(stored, held.turns))
    if not turns and problem is None and chat.conversation_id == chat.address:
        close(chat, UNKNOWN)
    return Conversation(turns, problem, held.last_turn_id)


def _with_lost(turn: TurnRecord, lost: Sequence[RequestRecord]) -> TurnRecord:
    """The turn with what was shown of requests whose meter died, until the store has it."""
    by_id = {record.id: record for record in lost}
    requests = tuple(
        record if record.phase is Phase.DONE else by_id.get(record.id, record) for record in turn.requests
    )
    return replace(turn, requests=requests)


def versions(chat: ChatState, turn: TurnRecord) -> list[TurnRecord]:
    """The turn with those that it replaces, the oldest first, as far as the store has them."""
    turns = [turn]
    while (earlier_id := turns[0].replaces) and len(turns) < _MOST_VERSIONS:
        try:
            earlier = chat.versions.get(earlier_id) or resources.store().turn(earlier_id)
        except (AccessDenied, StoreError):
            break
        if earlier is None or not earlier.done:
            break
        chat.versions[earlier_id] = earlier
        turns.insert(0, earlier)
    return turns


def recent(page: ConversationPage, limit: int = 12) -> tuple[ConversationSummary, ...]:
    """The page's latest conversations; none if the store can't be read (`load` says why)."""
    try:
        return resources.store().conversations(limit, with_images=page.takes_images)
    except StoreError:
        return ()


def updates(request: RequestRecord) -> Generator[Update | None, None, None]:
    """The request's text so far, then what comes, ending with its record; None at least every `TICK_S`.

    From the meter if it has the turn; otherwise another process runs it, and the store is read every second.
    """
    try:
        yield from resources.meter().follow(request.turn_id, request.id, tick_s=TICK_S)
    except InputError as error:
        if error.code != "unknown-turn":
            raise
        yield from _polled(request)


def _polled(request: RequestRecord) -> Generator[Update | None, None, None]:
    shown = shown_reasoning = 0
    for record in _stored_records(request):
        if record:
            yield Update(
                request_id=record.id,
                phase=record.phase,
                content=record.text[shown:],
                reasoning=record.reasoning[shown_reasoning:],
                record=record if record.phase is Phase.DONE else None,
            )
            shown, shown_reasoning = len(record.text), len(record.reasoning)
            if record.phase is Phase.DONE:
                return
        else:
            yield None


def _stored_records(request: RequestRecord) -> Iterator[RequestRecord | None]:
    while True:
        turn = resources.store().turn(request.turn_id)
        for record in turn.requests if turn else ():
            if record.id == request.id:
                yield record
        next_read = monotonic() + POLL_S
        while monotonic() < next_read:
            sleep(TICK_S)
            yield None


def has_news(chat: ChatState, last_turn_id: str | None) -> bool:
    """Whether another turn was started since, in whichever browser tab."""
    return resources.meter().conversation(chat.conversation_id).last_turn_id != last_turn_id
