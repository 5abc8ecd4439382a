"""Takes in what another machine exported, runs of whatever kind and sessions, after all of it was checked."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from core.codec import decode
from core.domain.runs import BenchRun, QualityRun, RunKind
from core.domain.sessions import Session, SessionAnswer, SessionRecord, SessionState, Verdict
from core.errors import InputError, StoreError
from core.i18n import N_, Text
from core.reports import quality_json, run_json
from core.reports.exported_file import ExportedFile, check_schema, check_timing, check_tokens
from core.store.runs import BenchRuns, QualityRuns


@dataclass(frozen=True, slots=True)
class Imported:
    """The content of an imported file."""

    kind: RunKind
    run: BenchRun | QualityRun
    is_new: bool
    """False for a run that was here already; then nothing was stored."""


def import_run(file: BinaryIO, bench_runs: BenchRuns, quality_runs: QualityRuns) -> Imported:
    """Take in the run of an open file; its note and tag are left to the caller.

    Raises AccessDenied, StoreError, and InputError: `bad-record` for what is no exported run or holds values
    that can't be, `newer-schema`, `no-raw-facts`, `import-too-large`.
    """
    if quality_json.is_quality_document(file):
        record = quality_json.read_run(file)
        return Imported(RunKind.QUALITY, record.run, _stored(lambda: quality_runs.add(record)))
    exported = run_json.read_run(file)
    for _request in exported.requests():
        pass  # nothing is stored of a file of which some request is wrong
    is_new = _stored(lambda: bench_runs.take_in(exported.run, exported.passes, exported.requests()))
    return Imported(RunKind.BENCH, exported.run, is_new)


def _stored(store: Callable[[], None]) -> bool:
    try:
        store()
    except StoreError as error:
        if error.code != "run-exists":
            raise
        return False
    return True


SCHEMA_VERSION = 1
_ID = re.compile(r"[0-9a-z]{6,40}")
_PERSON_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_NOT_A_SESSION = N_("This isn't the JSON file of a session.")
_MAX_TEXT_CHARS = 4 * 2**20
_MAX_NAME_CHARS = 1000
_MAX_PEOPLE = 10_000
_MAX_VOTES = 1_000_000


def read_session(file: BinaryIO) -> SessionRecord:
    """The session in an open file; raises InputError for anything that is not a whole one.

    Its answers, which are most of it, are read one by one. Voting is closed: the link of the other machine
    doesn't lead here.
    """
    exported = ExportedFile(file, [("answers",)], what=_NOT_A_SESSION)
    record = decode(SessionRecord, exported.head(), otherwise=_NOT_A_SESSION)
    check_schema(record.schema_version, SCHEMA_VERSION)
    if problem := _problem(record):
        raise _contradiction(problem)
    answers = tuple(_checked_answers(exported.entries(), record.session))
    state = SessionState.CLOSED if record.session.items else SessionState.DRAFT
    session = replace(record.session, state=state, link="", imported=True)
    return replace(record, session=session, answers=answers)


def _contradiction(problem: Text) -> InputError:
    return InputError(
        N_("The session's JSON contradicts itself: {problem}", problem=problem),
        hint=N_("Export it again."),
        code="bad-record",
    )


def _checked_answers(entries: Iterable[bytes], session: Session) -> Iterator[SessionAnswer]:
    lanes, prompts = range(len(session.plan.lanes)), range(len(session.plan.prompts.prompts))
    seen: set[tuple[int, int, int]] = set()
    for entry in entries:
        answer = decode(SessionAnswer, entry, otherwise=_NOT_A_SESSION)
        key, record = (answer.prompt, answer.lane, answer.sample), answer.record
        is_fine = answer.prompt in prompts and answer.lane in lanes and answer.sample in (0, 1)
        has_moment = record.sent_at is None or record.sent_at.tzinfo is not None
        is_short = len(record.text) + len(record.reasoning) <= _MAX_TEXT_CHARS
        if key in seen or not (is_fine and has_moment and is_short):
            raise _contradiction(N_("an answer"))
        seen.add(key)
        place = f"answers.{answer.prompt}.{answer.lane}"
        check_tokens(place, record.prompt_tokens, record.cached_tokens)
        if record.timing:
            check_timing(place, record.timing)
        yield answer


def _problem(record: SessionRecord) -> Text | None:
    session = record.session
    lanes, prompts = range(len(session.plan.lanes)), range(len(session.plan.prompts.prompts))
    people = {person.id for person in record.participants}
    checks = (
        (_ID.fullmatch(session.id), N_("the id")),
        (len(session.plan.title) <= _MAX_NAME_CHARS, N_("the title")),
        (
            all(
                moment is None or moment.tzinfo is not None
                for moment in (
                    *(session.created_at, session.opened_at, session.closed_at),
                    *(person.joined_at for person in record.participants),
                    *(vote.given_at for vote in record.votes),
                    *(judgement.given_at for judgement in record.judgements),
                )
            ),
            N_("a time without its zone"),
        ),
        (
            len(record.participants) <= _MAX_PEOPLE
            and len(record.votes) <= _MAX_VOTES
            and len(record.judgements) <= _MAX_VOTES,
            N_("more votes than people can give"),
        ),
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
            len(people) == len({p.seat for p in record.participants}) == len(record.participants)
            and all(
                person.session_id == session.id
                and 0 <= person.seat < _MAX_VOTES
                and _PERSON_ID.fullmatch(person.id) is not None
                and len(person.name) <= _MAX_NAME_CHARS
                for person in record.participants
            ),
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
