"""Plans and records to rows, and rows back to records; the reads of sessions that several classes share."""

import hashlib
import secrets
import unicodedata
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple, TypeVar, cast

from sqlalchemy import ColumnElement, Connection, Row, select

from core import codec
from core.domain.conversation import Message
from core.domain.sessions import Judgement, Participant, Session, SessionAnswer, Vote
from core.domain.specs import LaneSpec
from core.domain.turns import Growth, Machine, RequestRecord, TurnPlan, TurnRecord, grown, utc_now
from core.store.tables import machines, session_judgements, session_participants, session_votes, sessions

RowValues = dict[str, Any]
T = TypeVar("T")

_CODE_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
"""Without those that look alike."""
_CODE_LENGTH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationSummary:
    """A conversation as a list shows it; turns replaced by a later one don't count."""

    id: str
    title: str
    """The start of its first prompt, in one line."""
    updated_at: datetime
    """When its last turn was asked."""
    turns: int
    lanes: tuple[str, ...]
    """Names of the lanes that took part, those of the first turn first."""


def record_of(kind: type[T], row: Row[Any], **others: object) -> T:
    """The dataclass whose fields have the names of the row's columns, but for those in `others`."""
    names = _field_names(cast("Hashable", kind))
    return kind(**{name: getattr(row, name) for name in names if name not in others}, **others)


@cache
def _field_names(kind: Hashable) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cast("Any", kind)))


def turn_values(plan: TurnPlan, machine: Machine | None) -> RowValues:
    return {
        "id": plan.id,
        "conversation_id": plan.conversation_id,
        "created_at": plan.created_at,
        "replaces": plan.replaces,
        "mode": plan.mode,
        "sampling": plan.sampling,
        "machine_id": digest(machine) if machine else None,
        "prompt": plan.prompt,
        "system_prompt": plan.system_prompt,
        "images": plan.images or None,
        "owner": plan.owner,
    }


def identity_values(record: RequestRecord, position: int, thread: list[RowValues]) -> RowValues:
    """The columns of a request that stay as planned; `thread` is `message_rows` of its messages."""
    return {
        "id": record.id,
        "turn_id": record.turn_id,
        "position": position,
        "lane_id": digest(record.lane),
        "last_message_id": thread[-1]["id"] if thread else None,
    }


def progress_values(record: RequestRecord, updated_at: datetime) -> RowValues:
    """The columns of a request that change while it runs."""
    return state_values(record, updated_at) | _answer_values(record)


def piece_values(growth: Growth) -> RowValues:
    """Return what a running request has grown by."""
    return {"request_id": growth.record.id, "first_chunk": growth.first_chunk} | _answer_values(growth.record)


def _answer_values(record: RequestRecord) -> RowValues:
    return {"timing": record.timing, "reasoning": record.reasoning, "text": record.text}


def state_values(record: RequestRecord, updated_at: datetime) -> RowValues:
    """Those that stay small however long the answer gets."""
    return {
        "phase": record.phase,
        "updated_at": updated_at,
        "engine_version": record.engine_version,
        "device": record.device,
        "served_model": record.served_model,
        "place": record.place,
        "sent_at": record.sent_at,
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "finish_reason": record.finish_reason,
        "error": record.error,
        "notes": record.notes,
        "usage_window": record.window,
        "stopped_by": record.stopped_by,
    }


def machine_rows(machine: Machine | None) -> list[RowValues]:
    return [{"id": digest(machine), "host": machine.host, "facts": machine}] if machine else []


def lane_rows(lanes: Iterable[LaneSpec]) -> list[RowValues]:
    rows = {
        digest(lane): {
            "id": digest(lane),
            "name": lane.name,
            "kind": lane.kind,
            "model": lane.model.name if lane.model else lane.endpoint and lane.endpoint.model,
            "spec": lane,
        }
        for lane in lanes
    }
    return [rows[key] for key in sorted(rows)]


def message_rows(messages: Iterable[Message]) -> list[RowValues]:
    """One row a message, the first one first; each one's id stands for all up to it."""
    rows: list[RowValues] = []
    parent_id = None
    for message in messages:
        identity = f"{parent_id or ''}\n{message.role}\n{message.content}".encode("utf-8", "surrogatepass")
        if message.images:
            identity = codec.encode(message.images) + identity
        row_id = _digest(identity)
        rows.append(
            {
                "id": row_id,
                "parent_id": parent_id,
                "role": message.role,
                "content": message.content,
                "images": message.images or None,
            }
        )
        parent_id = row_id
    return rows


def merged(threads: Iterable[list[RowValues]]) -> list[RowValues]:
    """The rows of several threads, each once: parents first, and in an order that all writers share."""
    rows = {row["id"]: (depth, row) for thread in threads for depth, row in enumerate(thread)}
    return [row for _, row in sorted(rows.values(), key=lambda item: (item[0], item[1]["id"]))]


class StoredMessage(NamedTuple):
    message: Message
    parent_id: str | None


def to_message(row: Row[Any]) -> StoredMessage:
    return StoredMessage(Message(row.role, row.content, row.images or ()), row.parent_id)


def thread_of(last_id: str | None, stored: Mapping[str, StoredMessage]) -> tuple[Message, ...]:
    """The messages that end with `last_id`, out of stored ones by their id."""
    thread: list[Message] = []
    while last_id is not None:
        message, last_id = stored[last_id]
        thread.append(message)
    return tuple(reversed(thread))


def to_request(
    row: Row[Any], lane: LaneSpec, messages: tuple[Message, ...], pieces: Sequence[Row[Any]]
) -> RequestRecord:
    """A request; `pieces` is what its answer has grown by since it was last written whole, in order."""
    record = RequestRecord(
        id=row.id,
        turn_id=row.turn_id,
        lane=lane,
        messages=messages,
        phase=row.phase,
        engine_version=row.engine_version,
        device=row.device,
        served_model=row.served_model,
        place=row.place,
        sent_at=row.sent_at,
        timing=row.timing,
        text=row.text,
        reasoning=row.reasoning,
        prompt_tokens=row.prompt_tokens,
        cached_tokens=row.cached_tokens,
        finish_reason=row.finish_reason,
        error=row.error,
        notes=row.notes,
        window=row.usage_window,
        stopped_by=row.stopped_by,
    )
    if not pieces:
        return record
    bare = replace(record, text="", reasoning="", timing=None)
    return grown(
        record,
        [
            Growth(
                record=replace(bare, text=piece.text, reasoning=piece.reasoning, timing=piece.timing),
                first_chunk=piece.first_chunk,
            )
            for piece in pieces
        ],
    )


def to_turn(row: Row[Any], requests: Iterable[RequestRecord], machine: Machine | None) -> TurnRecord:
    return TurnRecord(
        id=row.id,
        conversation_id=row.conversation_id,
        created_at=row.created_at,
        prompt=row.prompt,
        system_prompt=row.system_prompt,
        mode=row.mode,
        sampling=row.sampling,
        requests=tuple(requests),
        machine=machine,
        replaces=row.replaces,
        images=row.images or (),
        owner=row.owner,
    )


def digest(value: Machine | LaneSpec) -> str:
    """The id under which a recurring object is kept once."""
    return _digest(codec.encode(value))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def new_code() -> str:
    """A participant's secret, short enough to be typed."""
    return "".join(secrets.choice(_CODE_LETTERS) for _ in range(_CODE_LENGTH))


def name_key(name: str) -> str:
    """Return what two names share that look alike."""
    return unicodedata.normalize("NFKC", name).casefold()


def session_values(session: Session) -> RowValues:
    return {
        "id": session.id,
        "link": session.link,
        "created_at": session.created_at,
        "updated_at": utc_now(),
        "opened_at": session.opened_at,
        "closed_at": session.closed_at,
        "state": session.state,
        "owner": session.owner,
        "imported": session.imported,
        "machine_id": digest(session.machine) if session.machine else None,
        "identical_pairs": session.identical_pairs,
        "title": session.plan.title,
        "plan": session.plan,
        "items": session.items,
    }


def read_session(connection: Connection, condition: ColumnElement[bool]) -> Session | None:
    row = connection.execute(
        select(sessions, machines.c.facts)
        .outerjoin(machines, machines.c.id == sessions.c.machine_id)
        .where(condition)
    ).first()
    if row is None:
        return None
    return record_of(Session, row, machine=row.facts)


def read_participants(connection: Connection, session_id: str) -> tuple[Participant, ...]:
    """Return who takes part, in the order of joining."""
    rows = connection.execute(
        select(session_participants)
        .where(session_participants.c.session_id == session_id)
        .order_by(session_participants.c.seat)
    )
    return tuple(record_of(Participant, row) for row in rows)


def read_votes(connection: Connection, condition: ColumnElement[bool]) -> tuple[Vote, ...]:
    """The votes that fit, oldest first."""
    rows = connection.execute(
        select(session_votes)
        .where(condition)
        .order_by(session_votes.c.given_at, session_votes.c.participant_id, session_votes.c.item)
    )
    return tuple(to_vote(row) for row in rows)


def read_judgements(connection: Connection, session_id: str) -> tuple[Judgement, ...]:
    rows = connection.execute(
        select(session_judgements)
        .where(session_judgements.c.session_id == session_id)
        .order_by(session_judgements.c.judge, session_judgements.c.item, session_judgements.c.turned)
    )
    return tuple(to_judgement(row) for row in rows)


def answer_values(session_id: str, answer: SessionAnswer) -> RowValues:
    return {
        "session_id": session_id,
        "prompt": answer.prompt,
        "lane": answer.lane,
        "sample": answer.sample,
        "record": answer.record,
    }


def participant_values(person: Participant) -> RowValues:
    return {
        "id": person.id,
        "session_id": person.session_id,
        "joined_at": person.joined_at,
        "seat": person.seat,
        "name": person.name,
        "name_key": name_key(person.name),
        "user": person.user,
        "code": person.code,
    }


def vote_values(session_id: str, vote: Vote) -> RowValues:
    return {
        "participant_id": vote.participant_id,
        "item": vote.item,
        "session_id": session_id,
        "given_at": vote.given_at,
        "took_s": vote.took_s,
        "shown": vote.shown,
        "verdict": vote.verdict,
        "preference": vote.order,
        "reasons": vote.reasons,
        "comment": vote.comment,
        "deploy": vote.deploy,
        "deploy_preference": vote.deploy_order if vote.deploy else None,
    }


def to_vote(row: Row[Any]) -> Vote:
    return record_of(Vote, row, order=row.preference, deploy_order=row.deploy_preference or ())


def judgement_values(session_id: str, judgement: Judgement) -> RowValues:
    return {
        "session_id": session_id,
        "judge": judgement.judge,
        "item": judgement.item,
        "turned": judgement.turned,
        "given_at": judgement.given_at,
        "verdict": judgement.verdict,
        "preference": judgement.order,
        "error": judgement.error,
        "text": judgement.text,
    }


def to_judgement(row: Row[Any]) -> Judgement:
    return record_of(Judgement, row, order=row.preference)
