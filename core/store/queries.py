"""What is read back: turns with all that belongs to them, and lists of conversations.

Each function takes an open connection; a few statements each, however many turns there are.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, func, select

from core.access.guard import may_see
from core.domain.history import RunKind
from core.domain.turns import RequestRecord, TurnRecord
from core.errors import AccessDenied
from core.i18n import N_
from core.store.records import (
    ConversationSummary,
    StoredMessage,
    thread_of,
    to_message,
    to_request,
    to_turn,
)
from core.store.tables import annotations, lanes, machines, messages, request_pieces, requests, turns
from core.store.visibility import by_link, listed

_TITLE_CHARS = 120
_later = turns.alias("later")
_is_replaced = select(_later.c.id).where(_later.c.replaces == turns.c.id).exists()
_is_deleted = (
    select(annotations.c.item_id)
    .where(
        annotations.c.kind == RunKind.CHAT,
        annotations.c.item_id == turns.c.id,
        annotations.c.deleted_at.is_not(None),
    )
    .exists()
)
_SHOWN: ColumnElement[bool] = ~_is_replaced & ~_is_deleted


def read_turn(connection: Connection, turn_id: str) -> TurnRecord | None:
    """The turn, if whoever acts may see it."""
    return next(iter(_read_turns(connection, (turns.c.id == turn_id) & by_link(turns.c.owner))), None)


def read_grown(connection: Connection, request_ids: Sequence[str]) -> tuple[RequestRecord, ...]:
    """Those of the requests whose answers are kept in pieces."""
    if not request_ids:
        return ()
    grown = select(request_pieces.c.request_id).where(request_pieces.c.request_id.in_(request_ids))
    ids = set(connection.scalars(grown).all())
    found = (
        _read_requests(connection, select(requests.c.turn_id).where(requests.c.id.in_(ids))) if ids else {}
    )
    return tuple(record for records in found.values() for record in records if record.id in ids)


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
    updated_at = func.max(turns.c.created_at).label("updated_at")
    chosen = (
        select(turns.c.conversation_id, updated_at, func.count().label("turns"))
        .where(_SHOWN, listed(turns.c.owner))
        .group_by(turns.c.conversation_id)
    )
    if with_images is not None:
        chosen = chosen.having((func.count(turns.c.images) > 0) == with_images)
    newest = connection.execute(
        chosen.order_by(updated_at.desc(), turns.c.conversation_id).limit(limit)
    ).all()
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
    found = _read_requests(connection, select(turns.c.id).where(chosen))
    hosts = {
        row.id: row.facts
        for row in connection.execute(
            select(machines).where(machines.c.id.in_(select(turns.c.machine_id).where(chosen).distinct()))
        )
    }
    return tuple(to_turn(row, found[row.id], hosts.get(row.machine_id)) for row in turn_rows)


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
    """What running requests have grown by, by request, in order."""
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
