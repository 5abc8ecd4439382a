"""Evaluation sessions: their prompt sets, plans, answers and judgements, and who voted how.

A person has one vote on an item, whatever browsers send.
"""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from core.access.guard import Action, authorise, may
from core.domain.sessions import (
    Candidate,
    Judgement,
    Participant,
    PromptSet,
    Session,
    SessionAnswer,
    SessionItem,
    SessionPlan,
    SessionRecord,
    SessionState,
    Verdict,
    Vote,
)
from core.domain.turns import Machine, utc_now
from core.errors import InputError, StoreError
from core.i18n import N_
from core.store import records
from core.store.access import Access, by_link, insert_new, listed, upsert
from core.store.records import (
    answer_values,
    judgement_values,
    name_key,
    new_code,
    participant_values,
    read_judgements,
    read_participants,
    read_session,
    read_votes,
    session_values,
    to_vote,
    vote_values,
)
from core.store.tables import (
    machines,
    prompt_sets,
    session_answers,
    session_judgements,
    session_participants,
    session_votes,
    sessions,
)

LONGEST_NAME = 40
"""Of a participant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSummary:
    """A session as a list shows it."""

    id: str
    title: str
    state: SessionState
    created_at: datetime
    owner: str | None
    imported: bool
    participants: int
    votes: int
    """Without those that were skipped."""


@dataclass(frozen=True, slots=True)
class Turnout:
    """The progress of a session's voting; equal values mean that nothing was voted in between."""

    participants: int
    votes: int
    """With those that were skipped."""
    deploy_votes: int
    newest_at: datetime | None


class Sessions(Access):
    """Sessions in SQLite or PostgreSQL; every method but `close` raises StoreError.

    What changes a session raises AccessDenied if whoever acts may not do it. A session that they may not see
    (`core.access`) is as if it were not there.
    """

    def save_prompt_set(self, prompts: PromptSet) -> None:
        """Keep a version of a prompt set; one that is here already stays as it is."""
        if not may(Action.START_JOB):
            authorise(Action.START_JOB, f"prompts: {prompts.name}")
        row = {
            "name": prompts.name,
            "version": prompts.version,
            "created_at": prompts.created_at,
            "prompts": prompts.prompts,
        }
        with self._writing() as connection:
            insert_new(connection, prompt_sets, [row])

    def prompt_sets(self) -> tuple[PromptSet, ...]:
        """All versions of all sets, the newest first."""
        with self._reading() as connection:
            rows = connection.execute(select(prompt_sets).order_by(prompt_sets.c.created_at.desc())).all()
        return tuple(
            PromptSet(name=row.name, version=row.version, created_at=row.created_at, prompts=row.prompts)
            for row in rows
        )

    def create(self, session: Session) -> Session:
        """Keep a new session of whoever acts; returns it with the secret of its voting link."""
        identity = authorise(Action.START_JOB, f"session: {session.plan.title}")
        session = replace(session, owner=identity.owner)
        session = replace(session, link=session.link or secrets.token_urlsafe(12))
        with self._writing() as connection:
            _insert_session(connection, session)
        return session

    def add(self, record: SessionRecord) -> Session:
        """Take in a whole session, such as an imported one; raises StoreError (`session-exists`).

        It belongs to whoever acts. Its link and its participants' codes are new ones: files carry no secrets.
        """
        identity = authorise(Action.IMPORT, f"session: {record.session.plan.title}")
        session = replace(record.session, link=secrets.token_urlsafe(12), owner=identity.owner)
        with self._writing() as connection:
            if connection.scalar(select(sessions.c.id).where(sessions.c.id == session.id)):
                raise StoreError(
                    N_("This session already exists."),
                    hint=N_("Delete it first to import it again."),
                    code="session-exists",
                )
            _insert_session(connection, session)
            insert_new(
                connection, session_answers, [answer_values(session.id, answer) for answer in record.answers]
            )
            insert_new(
                connection,
                session_participants,
                [participant_values(replace(person, code=new_code())) for person in record.participants],
            )
            insert_new(connection, session_votes, [vote_values(session.id, vote) for vote in record.votes])
            insert_new(
                connection,
                session_judgements,
                [judgement_values(session.id, judgement) for judgement in record.judgements],
            )
        return session

    def record(self, session_id: str) -> SessionRecord:
        """Everything about a session; raises StoreError (`no-such-session`)."""
        session, answers = self.session(session_id), self.answers(session_id)
        with self._reading() as connection:
            return SessionRecord(
                session=session,
                answers=answers,
                participants=read_participants(connection, session_id),
                votes=read_votes(connection, session_votes.c.session_id == session_id),
                judgements=read_judgements(connection, session_id),
            )

    def session(self, session_id: str) -> Session:
        """Raises StoreError (`no-such-session`)."""
        with self._reading() as connection:
            session = read_session(connection, (sessions.c.id == session_id) & by_link(sessions.c.owner))
        if session is None:
            raise StoreError(
                N_("There is no session {id}.", id=session_id),
                hint=N_("It may have been deleted."),
                code="no-such-session",
            )
        return session

    def session_of_link(self, link: str) -> Session | None:
        """The session whose voting link holds this secret; None if there is none."""
        with self._reading() as connection:
            return read_session(connection, sessions.c.link == link)

    def summaries(self, limit: int = 200) -> tuple[SessionSummary, ...]:
        """The sessions that whoever acts sees in lists, newest first."""
        people = (
            select(func.count()).where(session_participants.c.session_id == sessions.c.id).scalar_subquery()
        )
        votes = (
            select(func.count())
            .where(session_votes.c.session_id == sessions.c.id, session_votes.c.verdict != Verdict.SKIPPED)
            .scalar_subquery()
        )
        with self._reading() as connection:
            rows = connection.execute(
                select(
                    *(
                        sessions.c[name]
                        for name in ("id", "title", "state", "created_at", "owner", "imported")
                    ),
                    people.label("participants"),
                    votes.label("votes"),
                )
                .where(listed(sessions.c.owner))
                .order_by(sessions.c.created_at.desc())
                .limit(limit)
            ).all()
        return tuple(SessionSummary(**row._mapping) for row in rows)

    def delete(self, session_id: str) -> None:
        """Remove a session with its answers, participants and votes, for good."""
        session = self.session(session_id)
        authorise(Action.DELETE, f"session: {session.plan.title}", owner=session.owner)
        with self._writing() as connection:
            connection.execute(delete(sessions).where(sessions.c.id == session_id))

    def change_plan(self, session_id: str, plan: SessionPlan) -> None:
        """Set the plan anew, with the parts that may change after answers were made."""
        self._authorise(session_id)
        self._update(session_id, plan=plan, title=plan.title)

    def set_machine(self, session_id: str, machine: Machine) -> None:
        """Store on which machine the answers are made."""
        with self._writing() as connection:
            insert_new(connection, machines, records.machine_rows(machine))
            connection.execute(
                update(sessions)
                .where(sessions.c.id == session_id)
                .values(machine_id=records.digest(machine), updated_at=utc_now())
            )

    def open_voting(self, session_id: str, items: tuple[SessionItem, ...], *, identical_pairs: int) -> None:
        """Fix what is voted on and let people in; items that were fixed before stay as they are."""
        self._authorise(session_id)
        now = utc_now()
        with self._writing() as connection:
            connection.execute(
                update(sessions)
                .where(sessions.c.id == session_id, sessions.c.opened_at.is_(None))
                .values(items=items, identical_pairs=identical_pairs, opened_at=now)
            )
            connection.execute(
                update(sessions)
                .where(sessions.c.id == session_id)
                .values(state=SessionState.OPEN, closed_at=None, updated_at=now)
            )

    def close_voting(self, session_id: str) -> None:
        """Take no more votes; the results may be seen."""
        self._authorise(session_id)
        self._update(session_id, state=SessionState.CLOSED, closed_at=utc_now())

    def save_answers(self, session_id: str, answers: Iterable[SessionAnswer]) -> None:
        """Keep answers, in place of earlier ones to the same prompt."""
        rows = [answer_values(session_id, answer) for answer in answers]
        with self._writing() as connection:
            upsert(connection, session_answers, rows)

    def answers(self, session_id: str) -> tuple[SessionAnswer, ...]:
        """All answers so far, by prompt, lane and sample."""
        return self._answers(session_id)

    def answers_to(
        self, session_id: str, prompt: int, candidates: Sequence[Candidate]
    ) -> tuple[SessionAnswer, ...]:
        """These answers to one prompt, in the given order; raises StoreError if one is missing."""
        known = {
            Candidate(answer.lane, answer.sample): answer for answer in self._answers(session_id, prompt)
        }
        try:
            return tuple(known[candidate] for candidate in candidates)
        except KeyError as exc:
            raise StoreError(
                N_("An answer of the session is missing."),
                hint=N_("Generate the answers again."),
                code="no-such-answer",
            ) from exc

    def answer_keys(self, session_id: str) -> frozenset[tuple[int, int, int]]:
        """Prompt, lane and sample of each answer there is; cheap."""
        key = (session_answers.c.prompt, session_answers.c.lane, session_answers.c.sample)
        with self._reading() as connection:
            rows = connection.execute(select(*key).where(session_answers.c.session_id == session_id)).all()
        return frozenset((row.prompt, row.lane, row.sample) for row in rows)

    def save_judgements(self, session_id: str, judgements: Iterable[Judgement]) -> None:
        """Keep what a judge said, in place of what it said of the same items before."""
        with self._writing() as connection:
            upsert(
                connection,
                session_judgements,
                [judgement_values(session_id, judgement) for judgement in judgements],
            )

    def judgements(self, session_id: str) -> tuple[Judgement, ...]:
        with self._reading() as connection:
            return read_judgements(connection, session_id)

    def _authorise(self, session_id: str) -> None:
        """Whoever runs sessions may change them, in the state that they are in."""
        authorise(Action.START_JOB, f"session: {self.session(session_id).plan.title}")

    def _answers(self, session_id: str, prompt: int | None = None) -> tuple[SessionAnswer, ...]:
        query = select(session_answers).where(session_answers.c.session_id == session_id)
        if prompt is not None:
            query = query.where(session_answers.c.prompt == prompt)
        key = (session_answers.c.prompt, session_answers.c.lane, session_answers.c.sample)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(*key)).all()
        return tuple(
            SessionAnswer(prompt=row.prompt, lane=row.lane, sample=row.sample, record=row.record)
            for row in rows
        )

    def _update(self, session_id: str, **values: object) -> None:
        with self._writing() as connection:
            connection.execute(
                update(sessions).where(sessions.c.id == session_id).values(updated_at=utc_now(), **values)
            )


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


def _insert_session(connection: Connection, session: Session) -> None:
    insert_new(connection, machines, records.machine_rows(session.machine))
    insert_new(connection, sessions, [session_values(session)])


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
