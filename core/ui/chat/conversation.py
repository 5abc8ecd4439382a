"""A conversation as it stands now: from the meter, and from the store.

The meter owns what runs and what is not stored yet, the store what is finished. Reading changes nothing that
is stored.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from time import monotonic, sleep

from core.domain.turn_planning import merge_turns
from core.domain.turns import ErrorInfo, Phase, RequestRecord, TurnRecord
from core.errors import AccessDenied, InputError, StoreError
from core.i18n import N_
from core.meter.protocol import Update
from core.store.records import ConversationSummary
from core.ui.chat import session as chat_session
from core.ui.chat.session import ChatState, ConversationPage
from core.ui.shared import resources

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
        chat_session.close(chat, ErrorInfo.of(error))
        return Conversation((), problem)
    turns = tuple(_with_lost(turn, held.lost) for turn in merge_turns(stored, held.turns))
    if not turns and problem is None and chat.conversation_id == chat.address:
        chat_session.close(chat, UNKNOWN)
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
