"""A conversation as it stands now: from the store, from the meter, and from this session's memory.

The meter knows running turns best, the store what is finished; the session stands in for a store that can't
be used. Reading changes nothing that is stored.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from time import monotonic, sleep

from core.domain.turn_planning import merge_turns
from core.domain.turns import ErrorInfo, Phase, RequestRecord, TurnRecord, new_id
from core.errors import AccessDenied, StoreError
from core.meter.protocol import Update
from core.store.records import ConversationSummary
from core.ui.chat.conversation_page import ConversationPage
from core.ui.chat.session import ChatState
from core.ui.shared import resources

POLL_S = 1.0
TICK_S = 0.05


@dataclass(frozen=True, slots=True)
class Conversation:
    turns: tuple[TurnRecord, ...]
    """Oldest first, without those that were replaced."""
    problem: ErrorInfo | None = None
    """Why the store could not be read or written."""

    @property
    def running(self) -> tuple[TurnRecord, ...]:
        return tuple(turn for turn in self.turns if not turn.done)


def load(chat: ChatState) -> Conversation:
    problem = resources.meter().store_problem()
    try:
        stored = resources.store().conversation(chat.conversation_id)
    except StoreError as error:
        stored, problem = (), ErrorInfo.of(error)
    except AccessDenied as error:
        # Nothing may be added to it either: what is asked here begins a conversation of its own.
        chat.conversation_id = new_id()
        stored, problem = (), ErrorInfo.of(error)
    known = {turn.id: turn for turn in (*chat.turns.values(), *stored)}
    unfinished = [turn.id for turn in known.values() if not turn.done]
    unstored = [turn_id for turn_id in resources.started().of(chat.conversation_id) if turn_id not in known]
    live = [resources.meter().turn(turn_id) for turn_id in (*unfinished, *unstored)]
    turns = merge_turns(tuple(chat.turns.values()), stored, [turn for turn in live if turn])
    chat.turns = {turn.id: turn for turn in turns if turn.id in chat.turns or not turn.done}
    return Conversation(turns, problem)


def recent(page: ConversationPage, limit: int = 12) -> tuple[ConversationSummary, ...]:
    """The room's latest conversations; none if the store can't be read (`load` says why)."""
    try:
        return resources.store().conversations(limit, with_images=page.takes_images)
    except StoreError:
        return ()


def updates(request: RequestRecord) -> Generator[Update | None, None, None]:
    """The request's text so far, then what comes, ending with its record; None at least every `TICK_S`.

    From the meter if it has the turn; otherwise another process runs it, and the store is read every second.
    """
    meter = resources.meter()
    if meter.turn(request.turn_id):
        yield from meter.follow(request.turn_id, request.id, tick_s=TICK_S)
    else:
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
