"""Participants of sessions and their votes: one row for each person and item, whatever browsers send."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from core.access.guard import Action, authorise
from core.domain.sessions import Participant, SessionState, Verdict, Vote
from core.errors import InputError
from core.i18n import N_
from core.store import records
from core.store.access import Access, insert_new
from core.store.records import (
    name_key,
    new_code,
    participant_values,
    read_participants,
    read_votes,
    to_vote,
    vote_values,
)
from core.store.tables import session_participants, session_votes, sessions

LONGEST_NAME = 40


@dataclass(frozen=True, slots=True)
class Turnout:
    """The progress of a session's voting; equal values mean that nothing was voted in between."""

    participants: int
    votes: int
    """With those that were skipped."""
    deploy_votes: int
    newest_at: datetime | None


class Votes(Access):
    """Participants and votes; every method but `close` raises StoreError.

    What votes raises AccessDenied for people without a role.
    """

    def join(self, session_id: str, name: str, *, user: str | None = None) -> Participant:
        """Take part under a name; whoever is signed in gets the seat that they have already.

        Raises InputError for a name that is empty or taken (`name-taken`), and before and after voting.
        """
        authorise(Action.VOTE, session_id)
        name = " ".join(name.split())[:LONGEST_NAME]
        if not name:
            raise InputError(N_("The name is empty."), hint=N_("Enter a name or nickname."))
        with self._writing() as connection:
            _require_open(connection, session_id, lock=True)
            own = session_participants.c.session_id == session_id
            if user is not None:
                row = connection.execute(
                    select(session_participants).where(own, session_participants.c.user == user)
                ).first()
                if row:
                    return records.record_of(Participant, row)
                name = _free_name(connection, session_id, name)
            elif _is_taken(connection, session_id, name):
                raise InputError(
                    N_('The name "{name}" is already taken in this session.', name=name),
                    hint=N_("Choose another name. If it is you, continue with your code."),
                    code="name-taken",
                )
            last = connection.scalar(select(func.max(session_participants.c.seat)).where(own))
            person = Participant(
                session_id=session_id,
                name=name,
                code=new_code(),
                seat=0 if last is None else last + 1,
                user=user,
            )
            insert_new(connection, session_participants, [participant_values(person)])
        return person

    def participant(self, session_id: str, code: str) -> Participant | None:
        """Return who has this code in the session; None for nobody."""
        with self._reading() as connection:
            row = connection.execute(
                select(session_participants).where(
                    session_participants.c.session_id == session_id,
                    session_participants.c.code == code.strip().lower(),
                )
            ).first()
        return records.record_of(Participant, row) if row else None

    def participants(self, session_id: str) -> tuple[Participant, ...]:
        """Return who takes part, in the order of joining."""
        with self._reading() as connection:
            return read_participants(connection, session_id)

    def vote(self, session_id: str, vote: Vote) -> bool:
        """Keep a vote; False, and nothing changes, if this person has voted on this item already.

        Raises InputError (`session-not-open`) before the session is open and after it is closed.
        """
        authorise(Action.VOTE, session_id)
        with self._writing() as connection:
            _require_open(connection, session_id)
            return _insert_once(connection, vote_values(session_id, vote))

    def undo(self, participant_id: str) -> Vote | None:
        """Take back this person's newest vote and return it; None if there is none to take back."""
        authorise(Action.VOTE, participant_id)
        mine = session_votes.c.participant_id == participant_id
        with self._writing() as connection:
            row = connection.execute(
                select(session_votes).where(mine).order_by(session_votes.c.given_at.desc()).limit(1)
            ).first()
            if row is None:
                return None
            _require_open(connection, row.session_id)
            connection.execute(delete(session_votes).where(mine, session_votes.c.item == row.item))
        return to_vote(row)

    def deploy(self, participant_id: str, item: int, verdict: Verdict, order: tuple[int, ...]) -> None:
        """Keep the second vote on an item, beside the first one; the first answer to it stands."""
        authorise(Action.VOTE, participant_id)
        with self._writing() as connection:
            connection.execute(
                update(session_votes)
                .where(
                    session_votes.c.participant_id == participant_id,
                    session_votes.c.item == item,
                    session_votes.c.deploy.is_(None),
                )
                .values(deploy=verdict, deploy_preference=order)
            )

    def votes_of(self, participant_id: str) -> tuple[Vote, ...]:
        """One person's votes, oldest first."""
        with self._reading() as connection:
            return read_votes(connection, session_votes.c.participant_id == participant_id)

    def votes(self, session_id: str) -> tuple[Vote, ...]:
        """All votes of a session, oldest first."""
        with self._reading() as connection:
            return read_votes(connection, session_votes.c.session_id == session_id)

    def turnout(self, session_id: str) -> Turnout:
        """Cheap; tells whether there is anything new."""
        with self._reading() as connection:
            people = connection.scalar(
                select(func.count()).where(session_participants.c.session_id == session_id)
            )
            row = connection.execute(
                select(
                    func.count().label("votes"),
                    func.count(session_votes.c.deploy).label("deploy_votes"),
                    func.max(session_votes.c.given_at).label("newest_at"),
                ).where(session_votes.c.session_id == session_id)
            ).one()
        return Turnout(people or 0, row.votes, row.deploy_votes, row.newest_at)


def _require_open(connection: Connection, session_id: str, *, lock: bool = False) -> None:
    """Raise InputError unless votes are taken; with `lock`, nobody else joins until the transaction ends."""
    query = select(sessions.c.state).where(sessions.c.id == session_id)
    state = connection.scalar(query.with_for_update() if lock else query)
    if state is not SessionState.OPEN:
        raise InputError(
            N_("This session is not taking votes."),
            hint=N_("It isn't open yet, or it is closed."),
            code="session-not-open",
        )


def _is_taken(connection: Connection, session_id: str, name: str) -> bool:
    taken = connection.scalar(
        select(session_participants.c.id).where(
            session_participants.c.session_id == session_id,
            session_participants.c.name_key == name_key(name),
        )
    )
    return taken is not None


def _free_name(connection: Connection, session_id: str, name: str) -> str:
    """The name, with a number if somebody has it: who signs in can't choose another."""
    number, free = 1, name
    while _is_taken(connection, session_id, free):
        number += 1
        free = f"{name} {number}"
    return free


def _insert_once(connection: Connection, row: dict[str, Any]) -> bool:
    """Insert the vote unless there is one of this person on this item; whether it was inserted."""
    is_sqlite = connection.dialect.name == "sqlite"
    insert = sqlite.insert(session_votes) if is_sqlite else postgresql.insert(session_votes)
    keys = [column.name for column in session_votes.primary_key]
    new = insert.values(row).on_conflict_do_nothing(index_elements=keys).returning(session_votes.c.item)
    return connection.execute(new).first() is not None
