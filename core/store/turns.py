"""The store of turns: written with their requests as they happen, read back as records and lists.

Functions that read take an open connection; a few statements each, however many turns there are.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Select,
    bindparam,
    delete,
    func,
    select,
    tuple_,
    update,
)

from core.access.guard import may_see
from core.domain.runs import RunKind
from core.domain.turns import (
    ErrorInfo,
    FinishReason,
    Growth,
    Machine,
    Phase,
    RequestRecord,
    TurnPlan,
    TurnRecord,
    utc_now,
)
from core.errors import AccessDenied, StoreError
from core.i18n import N_
from core.store import records
from core.store.access import Access, by_link, insert_new, listed, upsert
from core.store.records import ConversationSummary, StoredMessage, thread_of, to_message, to_request, to_turn
from core.store.tables import (
    STILL_OPEN,
    annotations,
    lanes,
    machines,
    messages,
    request_pieces,
    requests,
    turns,
)

__all__ = ["INTERRUPTED", "ConversationSummary", "Store"]

INTERRUPTED = ErrorInfo(
    code="interrupted",
    message=N_("LMDyno exited before this answer was complete."),
    hint=N_("The text up to that point is kept. For the whole answer, ask again."),
)
_TITLE_CHARS = 120


def _is_shown(table: FromClause) -> ColumnElement[bool]:
    """Whether a turn is neither replaced by a later one nor deleted; `table` is `turns` or an alias of it."""
    later = turns.alias("later")
    is_replaced = select(later.c.id).where(later.c.replaces == table.c.id).exists()
    is_deleted = (
        select(annotations.c.item_id)
        .where(
            annotations.c.kind == RunKind.CHAT,
            annotations.c.item_id == table.c.id,
            annotations.c.deleted_at.is_not(None),
        )
        .exists()
    )
    return ~is_replaced & ~is_deleted


_SHOWN = _is_shown(turns)
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
            return read_turn(connection, turn_id)

    def conversation(self, conversation_id: str) -> tuple[TurnRecord, ...]:
        """Its turns, oldest first, without those that a later one replaces.

        Raises AccessDenied for a conversation that whoever acts may not see.
        """
        with self._reading() as connection:
            return read_conversation(connection, conversation_id)

    def conversations(
        self, limit: int = 50, *, with_images: bool | None = None
    ) -> tuple[ConversationSummary, ...]:
        """The conversations, the one with the newest turn first; only those with images, or without any."""
        with self._reading() as connection:
            return read_conversations(connection, limit, with_images)

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
    for record in read_grown(connection, request_ids):
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


def read_turn(connection: Connection, turn_id: str) -> TurnRecord | None:
    """The turn, if whoever acts may see it."""
    return next(iter(_read_turns(connection, (turns.c.id == turn_id) & by_link(turns.c.owner))), None)


def read_grown(connection: Connection, request_ids: Sequence[str]) -> tuple[RequestRecord, ...]:
    """Those of the requests whose answers are kept in pieces."""
    if not request_ids:
        return ()
    grown = select(request_pieces.c.request_id).where(request_pieces.c.request_id.in_(request_ids))
    ids = set(connection.scalars(grown).all())
    by_turn = (
        _read_requests(connection, select(requests.c.turn_id).where(requests.c.id.in_(ids))) if ids else {}
    )
    return tuple(record for records in by_turn.values() for record in records if record.id in ids)


def read_conversation(connection: Connection, conversation_id: str) -> tuple[TurnRecord, ...]:
    """Its turns, oldest first, without those that a later one replaces and deleted ones.

    Raises AccessDenied if whoever acts may not see them.
    """
    records = _read_turns(connection, (turns.c.conversation_id == conversation_id) & _SHOWN)
    if not all(may_see(turn.owner, by_link=True) for turn in records):
        raise AccessDenied(
            N_("This conversation is private."), hint=N_("Only its owner and operators can open it.")
        )
    return records


def read_conversations(
    connection: Connection, limit: int, with_images: bool | None = None
) -> tuple[ConversationSummary, ...]:
    newest = connection.execute(_newest(with_images).limit(limit)).all()
    ids = [row.conversation_id for row in newest]
    titles = _titles(connection, ids)
    names = _lane_names(connection, ids)
    return tuple(
        ConversationSummary(
            id=row.conversation_id,
            title=titles[row.conversation_id],
            updated_at=row.updated_at,
            turns=row.turns,
            lanes=tuple(names[row.conversation_id]),
        )
        for row in newest
    )


def _newest(with_images: bool | None) -> Select[tuple[str, datetime, int]]:
    """Conversations, the newest first.

    They are found from the newest turn on, so that for a few of them few turns are read, however large the
    store is: each draw of a page with a conversation lists some.
    """
    talk = turns.alias("talk")
    is_of_same = (talk.c.conversation_id == turns.c.conversation_id) & _is_shown(talk) & listed(talk.c.owner)
    is_later = tuple_(talk.c.created_at, talk.c.id) > tuple_(turns.c.created_at, turns.c.id)
    count = select(func.count()).select_from(talk).where(is_of_same).scalar_subquery()
    chosen = (
        select(turns.c.conversation_id, turns.c.created_at.label("updated_at"), count.label("turns"))
        .where(_SHOWN, listed(turns.c.owner), ~select(talk.c.id).where(is_of_same, is_later).exists())
        .order_by(turns.c.created_at.desc(), turns.c.conversation_id)
    )
    if with_images is None:
        return chosen
    has_images = select(talk.c.id).where(is_of_same, talk.c.images.is_not(None)).exists()
    return chosen.where(has_images if with_images else ~has_images)


def _titles(connection: Connection, conversation_ids: list[str]) -> dict[str, str]:
    order = func.row_number().over(
        partition_by=turns.c.conversation_id, order_by=(turns.c.created_at, turns.c.id)
    )
    numbered = (
        select(turns.c.id, order.label("number"))
        .where(turns.c.conversation_id.in_(conversation_ids), _SHOWN)
        .subquery()
    )
    start = func.substr(turns.c.prompt, 1, _TITLE_CHARS).label("start")
    rows = connection.execute(
        select(turns.c.conversation_id, start).join(
            numbered, (numbered.c.id == turns.c.id) & (numbered.c.number == 1)
        )
    )
    return {row.conversation_id: " ".join(row.start.split()) for row in rows}


def _lane_names(connection: Connection, conversation_ids: list[str]) -> dict[str, list[str]]:
    rows = connection.execute(
        select(turns.c.conversation_id, lanes.c.name)
        .select_from(turns.join(requests).join(lanes))
        .where(turns.c.conversation_id.in_(conversation_ids), _SHOWN)
        .group_by(turns.c.conversation_id, lanes.c.name)
        .order_by(func.min(turns.c.created_at), func.min(requests.c.position))
    )
    names: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        names[row.conversation_id].append(row.name)
    return names


def _read_turns(connection: Connection, chosen: ColumnElement[bool]) -> tuple[TurnRecord, ...]:
    turn_rows = connection.execute(select(turns).where(chosen).order_by(turns.c.created_at, turns.c.id)).all()
    by_turn = _read_requests(connection, select(turns.c.id).where(chosen))
    hosts = {
        row.id: row.facts
        for row in connection.execute(
            select(machines).where(machines.c.id.in_(select(turns.c.machine_id).where(chosen).distinct()))
        )
    }
    return tuple(to_turn(row, by_turn[row.id], hosts.get(row.machine_id)) for row in turn_rows)


def _read_requests(connection: Connection, turn_ids: Select[tuple[str]]) -> dict[str, list[RequestRecord]]:
    """The requests of these turns, by turn, in the order in which they were planned."""
    chosen = requests.c.turn_id.in_(turn_ids)
    specs = {
        row.id: row.spec
        for row in connection.execute(
            select(lanes).where(lanes.c.id.in_(select(requests.c.lane_id).where(chosen).distinct()))
        )
    }
    threads = _read_threads(connection, select(requests.c.last_message_id).where(chosen))
    by_turn: dict[str, list[RequestRecord]] = defaultdict(list)
    pieces = _read_pieces(connection, select(requests.c.id).where(chosen))
    for row in connection.execute(select(requests).where(chosen).order_by(requests.c.position)):
        thread = thread_of(row.last_message_id, threads)
        by_turn[row.turn_id].append(to_request(row, specs[row.lane_id], thread, pieces.get(row.id, ())))
    return by_turn


def _read_pieces(connection: Connection, request_ids: Select[tuple[str]]) -> dict[str, list[Row[Any]]]:
    """Return what running requests have grown by, by request, in order."""
    rows = connection.execute(
        select(request_pieces)
        .where(request_pieces.c.request_id.in_(request_ids))
        .order_by(request_pieces.c.first_chunk)
    )
    pieces: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        pieces[row.request_id].append(row)
    return pieces


def _read_threads(connection: Connection, last_ids: Select[tuple[str | None]]) -> dict[str, StoredMessage]:
    """These messages and all before them, by id."""
    thread = (
        select(messages.c.id, messages.c.parent_id)
        .where(messages.c.id.in_(last_ids))
        .cte("thread", recursive=True)
    )
    # UNION leaves out what it has already found: histories that share a start are walked once.
    thread = thread.union(
        select(messages.c.id, messages.c.parent_id).where(messages.c.id == thread.c.parent_id)
    )
    rows = connection.execute(select(messages).where(messages.c.id.in_(select(thread.c.id))))
    return {row.id: to_message(row) for row in rows}
