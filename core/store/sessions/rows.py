"""Sessions, answers, participants and votes to rows and back, and the reads that several classes share."""

import secrets
import unicodedata
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, select

from core.domain.sessions import Judgement, Participant, Session, SessionAnswer, Vote
from core.domain.turns import utc_now
from core.store import records
from core.store.sessions.tables import session_judgements, session_participants, session_votes, sessions
from core.store.tables import machines

RowValues = dict[str, Any]


_CODE_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
"""Without those that look alike."""
_CODE_LENGTH = 8


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
        "machine_id": records.digest(session.machine) if session.machine else None,
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
    return records.record_of(Session, row, machine=row.facts)


def read_participants(connection: Connection, session_id: str) -> tuple[Participant, ...]:
    """Return who takes part, in the order of joining."""
    rows = connection.execute(
        select(session_participants)
        .where(session_participants.c.session_id == session_id)
        .order_by(session_participants.c.seat)
    )
    return tuple(records.record_of(Participant, row) for row in rows)


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
    return records.record_of(Vote, row, order=row.preference, deploy_order=row.deploy_preference or ())


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
    return records.record_of(Judgement, row, order=row.preference)
