"""The store: every turn with its requests, written as they happen, read back as records."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import timedelta

from sqlalchemy import Connection, bindparam, delete, func, select, update

from core.domain.growth import Growth
from core.domain.turns import (
    ErrorInfo,
    FinishReason,
    Machine,
    Phase,
    RequestRecord,
    TurnPlan,
    TurnRecord,
    utc_now,
)
from core.errors import StoreError
from core.i18n import N_
from core.store import queries, records
from core.store.access import Access, insert_new, upsert
from core.store.records import ConversationSummary
from core.store.tables import STILL_OPEN, lanes, machines, messages, request_pieces, requests, turns

__all__ = ["INTERRUPTED", "ConversationSummary", "Store"]

INTERRUPTED = ErrorInfo(
    code="interrupted",
    message=N_("LMDyno exited before this answer was complete."),
    hint=N_("The text up to that point is kept. For the whole answer, ask again."),
)

_SAVE_STATE = update(requests).where(requests.c.id == bindparam("request"))
"""For any number of requests, with the columns that each execution names."""


class Store(Access):
    """Turns and requests in SQLite or PostgreSQL.

    What whoever acts may not see (`core.access`) is as if it were not there. Every method but the constructor
    and `close` raises StoreError, and opens the store first if that has not
    happened yet.
    """

    def save_turn(self, plan: TurnPlan, machine: Machine | None) -> None:
        """Record a turn and its requests, all queued; what is stored of it already stays as it is."""
        planned = [RequestRecord.of(request, plan.id) for request in plan.requests]
        with self._writing() as connection:
            insert_new(connection, machines, records.machine_rows(machine))
            insert_new(connection, turns, [records.turn_values(plan, machine)])
            _insert_requests(connection, planned, first_position=0)

    def save_request(self, record: RequestRecord) -> None:
        """Record how far a request is, with its whole answer; its turn must have been saved."""
        values = records.progress_values(record, utc_now())
        with self._writing() as connection:
            connection.execute(delete(request_pieces).where(request_pieces.c.request_id == record.id))
            _save(connection, record, values)

    def save_growths(self, growths: Sequence[Growth]) -> None:
        """Record how far requests are and what their answers have grown by, in one transaction.

        What belongs to a turn that isn't stored, such as one that was deleted meanwhile, is left out.
        """
        bare = [replace(growth.record, text="", reasoning="", timing=None) for growth in growths]
        now = utc_now()
        with self._writing() as connection:
            rows = [records.state_values(record, now) | {"request": record.id} for record in bare]
            unknown = set[str]()
            if connection.execute(_SAVE_STATE, rows).rowcount != len(rows):
                unknown = _insert_missing(connection, bare)
            pieces = [
                records.piece_values(growth)
                for growth in growths
                if growth.record.timing is not None and growth.record.id not in unknown
            ]
            upsert(connection, request_pieces, pieces)

    def turn(self, turn_id: str) -> TurnRecord | None:
        """A turn by its id, replaced or not; None if there is none."""
        with self._reading() as connection:
            return queries.read_turn(connection, turn_id)

    def conversation(self, conversation_id: str) -> tuple[TurnRecord, ...]:
        """Its turns, oldest first, without those that a later one replaces.

        Raises AccessDenied for a conversation that whoever acts may not see.
        """
        with self._reading() as connection:
            return queries.read_conversation(connection, conversation_id)

    def conversations(
        self, limit: int = 50, *, with_images: bool | None = None
    ) -> tuple[ConversationSummary, ...]:
        """The conversations, the one with the newest turn first; only those with images, or without any."""
        with self._reading() as connection:
            return queries.read_conversations(connection, limit, with_images)

    def interrupt_unfinished(self, *, exclude: Collection[str] = (), older_than_s: float = 60.0) -> int:
        """End the requests that a dead meter left open, as failed with `INTERRUPTED`; returns their number.

        Spared are the requests of turns in `exclude` and those saved within the last `older_than_s`, which
        another process may be working on. One that was ended wrongly recovers when it is saved again.
        """
        now = utc_now()
        with self._writing() as connection:
            ended = connection.scalars(
                update(requests)
                .where(
                    STILL_OPEN,
                    requests.c.updated_at < now - timedelta(seconds=older_than_s),
                    requests.c.turn_id.not_in(list(exclude)),
                )
                .values(
                    phase=Phase.DONE,
                    finish_reason=FinishReason.ERROR,
                    error=INTERRUPTED,
                    updated_at=now,
                )
                .returning(requests.c.id)
            ).all()
            _put_together(connection, ended)
            return len(ended)


def _put_together(connection: Connection, request_ids: Sequence[str]) -> None:
    """Write the answers of requests that have ended whole, where they are kept in pieces."""
    for record in queries.read_grown(connection, request_ids):
        values = records.progress_values(record, utc_now())
        connection.execute(update(requests).where(requests.c.id == record.id).values(values))
        connection.execute(delete(request_pieces).where(request_pieces.c.request_id == record.id))


def _insert_missing(connection: Connection, states: Sequence[RequestRecord]) -> set[str]:
    """Insert those of the requests that aren't stored; returns the ids of those whose turn isn't either."""
    ids = [record.id for record in states]
    known = set(connection.scalars(select(requests.c.id).where(requests.c.id.in_(ids))))
    unknown = set[str]()
    for record in states:
        if record.id not in known:
            try:
                position = _next_position(connection, record.turn_id)
            except StoreError:
                unknown.add(record.id)
            else:
                _insert_requests(connection, [record], first_position=position)
    return unknown


def _save(connection: Connection, record: RequestRecord, values: records.RowValues) -> None:
    saved = connection.execute(update(requests).where(requests.c.id == record.id).values(values))
    if saved.rowcount == 0:
        position = _next_position(connection, record.turn_id)
        _insert_requests(connection, [record], first_position=position)


def _insert_requests(connection: Connection, new: Sequence[RequestRecord], *, first_position: int) -> None:
    now = utc_now()
    insert_new(connection, lanes, records.lane_rows(record.lane for record in new))
    threads = [records.message_rows(record.messages) for record in new]
    insert_new(connection, messages, records.merged(threads))
    rows = [
        records.identity_values(record, position, thread) | records.progress_values(record, now)
        for position, (record, thread) in enumerate(zip(new, threads, strict=True), first_position)
    ]
    insert_new(connection, requests, rows)


def _next_position(connection: Connection, turn_id: str) -> int:
    if connection.scalar(select(turns.c.id).where(turns.c.id == turn_id)) is None:
        raise StoreError(
            N_("Can't store an answer: its turn is not in the database."),
            hint=N_("The turn was deleted, or couldn't be stored when it started."),
            code="store-unknown-turn",
        )
    last = connection.scalar(select(func.max(requests.c.position)).where(requests.c.turn_id == turn_id))
    return 0 if last is None else last + 1
