"""Background jobs that generate a session's answers, or have them judged."""

from collections.abc import Mapping
from typing import Any

from core.codec import encode
from core.domain.sessions import Session
from core.domain.specs import LaneSpec
from core.i18n import N_, Text
from core.jobs.records import JobStatus
from core.jobs.registry import Jobs
from core.sessions.run.answering import check_sendable
from core.settings import Settings

ANSWERS_KIND = "session-answers"
JUDGING_KIND = "session-judging"


def start_answers(settings: Settings, session: Session) -> str:
    """Generate answers that are missing, in a process of its own; returns the job's id.

    Raises InputError while that is being done already, and for a lane that can't be sent one of the images.
    """
    check_sendable(session.plan)
    title = N_("Answers for {title}", title=session.plan.title)
    return _start(settings, session, ANSWERS_KIND, title, "core.sessions.run.answer_worker", {})


def start_judging(settings: Settings, session: Session, judge: LaneSpec, *, most_items: int) -> str:
    """Have a lane judge up to so many items in both orders; returns the job's id."""
    title = N_("{judge} judges {title}", judge=judge.name, title=session.plan.title)
    arguments = {"judge": encode(judge).decode(), "most_items": most_items}
    return _start(settings, session, JUDGING_KIND, title, "core.sessions.run.judge_worker", arguments)


def job_of(settings: Settings, session_id: str, kind: str) -> JobStatus | None:
    """The newest job of a kind for a session; None if there was none."""
    statuses = Jobs(settings).statuses(kind)
    return next((status for status in statuses if status.spec.arguments.get("session") == session_id), None)


def _start(
    settings: Settings, session: Session, kind: str, title: Text, worker: str, arguments: Mapping[str, Any]
) -> str:
    return Jobs(settings).start_module(
        kind,
        worker,
        {"session": session.id, **arguments},
        title=title,
        already_running=N_("This is already running for the session."),
        is_same=lambda spec: spec.arguments.get("session") == session.id,
    )
