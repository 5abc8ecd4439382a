"""Import a session that another machine exported; all of it is checked before any of it is stored."""

import re
from collections.abc import Iterable
from dataclasses import replace

from core.codec import decode
from core.domain.sessions import Session, SessionRecord, SessionState, Verdict
from core.errors import InputError
from core.i18n import N_, Text

SCHEMA_VERSION = 1
_ID = re.compile(r"[0-9a-z]{6,40}")


def read_session(data: bytes, *, owner: str | None = None) -> SessionRecord:
    """The session in a file; raises InputError for anything that is not a whole one.

    Voting is closed: the link of the other machine doesn't lead here.
    """
    record = decode(SessionRecord, data, otherwise=N_("This isn't the JSON file of a session."))
    if record.schema_version > SCHEMA_VERSION:
        raise InputError(
            N_("A newer version of LMDyno exported this session."),
            hint=N_("Update LMDyno, then import it again."),
            code="newer-schema",
        )
    if problem := _problem(record):
        raise InputError(
            N_("The session's JSON contradicts itself: {problem}", problem=problem),
            hint=N_("Export it again."),
            code="bad-record",
        )
    state = SessionState.CLOSED if record.session.items else SessionState.DRAFT
    session = replace(record.session, state=state, link="", imported=True, owner=owner)
    return replace(record, session=session)


def _problem(record: SessionRecord) -> Text | None:
    session = record.session
    lanes, prompts = range(len(session.plan.lanes)), range(len(session.plan.prompts.prompts))
    people = {person.id for person in record.participants}
    checks = (
        (_ID.fullmatch(session.id), N_("the id")),
        (
            all(
                item.prompt in prompts
                and len(item.candidates) >= 2
                and all(
                    candidate.lane in lanes and candidate.sample in (0, 1) for candidate in item.candidates
                )
                for item in session.items
            ),
            N_("an item"),
        ),
        (
            all(a.prompt in prompts and a.lane in lanes and a.sample in (0, 1) for a in record.answers),
            N_("an answer"),
        ),
        (
            len(people) == len({p.seat for p in record.participants}) == len(record.participants)
            and all(person.session_id == session.id and person.seat >= 0 for person in record.participants),
            N_("a participant"),
        ),
        (
            len({(vote.participant_id, vote.item) for vote in record.votes}) == len(record.votes),
            N_("two votes of one person on one item"),
        ),
        (
            all(
                vote.participant_id in people
                and _fits(session, vote.item, vote.verdict, vote.order)
                and (vote.deploy is None or _fits(session, vote.item, vote.deploy, vote.deploy_order))
                and sorted(vote.shown) == list(range(len(session.items[vote.item].candidates)))
                for vote in record.votes
            ),
            N_("a vote"),
        ),
        (all(_fits(session, j.item, j.verdict, j.order) for j in record.judgements), N_("a judgement")),
    )
    return next((what for fine, what in checks if not fine), None)


def _fits(session: Session, item: int, verdict: Verdict | None, order: Iterable[int]) -> bool:
    """Whether a verdict can be one on that item."""
    if item not in range(len(session.items)):
        return False
    places = list(range(len(session.items[item].candidates))) if verdict is Verdict.PREFERRED else []
    return sorted(order) == places
