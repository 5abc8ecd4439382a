"""Authorises every action that changes something, and records it in the audit log.

Who acts is found without being passed along: `acting_as` sets it for a block, else the function given to
`find_identity_with` tells it (the dashboard gives one that knows the visitor of the running session), else it
is the owner of this machine (command line, workers). Thread-safe.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache

from core.access.identity import LOCAL, SYSTEM, Identity, Role, Visibility
from core.errors import AccessDenied
from core.i18n import N_

log = logging.getLogger(__name__)


class Action(StrEnum):
    """Actions that a role may allow; the audit log holds these words."""

    CHAT = "chat"
    VOTE = "vote"
    STOP_ANSWER = "stop-answer"
    ANNOTATE = "annotate"
    DELETE = "delete"
    RESTORE = "restore"
    EXPORT = "export"
    LOG_IN = "log-in"
    LOG_OUT = "log-out"
    START_ENGINE = "start-engine"
    STOP_ENGINE = "stop-engine"
    RESTART_ENGINE = "restart-engine"
    CHANGE_LANE = "change-lane"
    REMOVE_LANE = "remove-lane"
    TEST_ENDPOINT = "test-endpoint"
    START_JOB = "start-job"
    CANCEL_JOB = "cancel-job"
    IMPORT = "import"
    PURGE = "purge"
    READ_AUDIT = "read-audit"


ACTION_NAMES = {
    Action.CHAT: N_("Send a prompt"),
    Action.VOTE: N_("Vote"),
    Action.STOP_ANSWER: N_("Stop an answer"),
    Action.ANNOTATE: N_("Note or tag"),
    Action.DELETE: N_("Delete"),
    Action.RESTORE: N_("Restore"),
    Action.EXPORT: N_("Export"),
    Action.LOG_IN: N_("Log in"),
    Action.LOG_OUT: N_("Log out"),
    Action.START_ENGINE: N_("Start an engine"),
    Action.STOP_ENGINE: N_("Stop an engine"),
    Action.RESTART_ENGINE: N_("Restart an engine"),
    Action.CHANGE_LANE: N_("Change or add a lane"),
    Action.REMOVE_LANE: N_("Remove a lane"),
    Action.TEST_ENDPOINT: N_("Test an endpoint"),
    Action.START_JOB: N_("Start a job"),
    Action.CANCEL_JOB: N_("Cancel a job"),
    Action.IMPORT: N_("Import"),
    Action.PURGE: N_("Delete permanently"),
    Action.READ_AUDIT: N_("Read the audit log"),
}

_OF_VIEWERS = frozenset({Action.CHAT, Action.VOTE, Action.EXPORT, Action.LOG_IN, Action.LOG_OUT})
_OF_OWNERS = frozenset({Action.STOP_ANSWER, Action.ANNOTATE, Action.DELETE, Action.RESTORE})
"""What viewers may do to what is their own."""
_OF_READERS = frozenset({Action.EXPORT})
"""What changes nothing, and so goes even where only recordings are shown."""
_UNRECORDED = frozenset({Action.CHAT, Action.VOTE, Action.ANNOTATE, Action.READ_AUDIT})
"""What goes without an audit entry unless it is refused: it is stored with its owner, or harmless."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One action: who did what to what, and when; or who wanted to."""

    who: str
    name: str
    action: Action
    target: str
    allowed: bool
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


_ACTING_FOR = "LMDYNO_ACTING_FOR"
_acting: ContextVar[Identity | None] = ContextVar("acting", default=None)
_find: Callable[[], Identity] | None = None
_read_only = False
_record: Callable[[AuditEntry], None] | None = None


def make_read_only(on: bool = True) -> None:
    """From now on nobody in this process may change anything: recordings are shown, nothing else."""
    global _read_only
    _read_only = on


def is_read_only() -> bool:
    return _read_only


def require_writable() -> None:
    """Raises AccessDenied where nothing may be changed."""
    if _read_only:
        raise AccessDenied(
            N_("This dashboard only replays recordings."),
            hint=N_("To measure, install LMDyno on a machine of your own."),
            code="read-only",
        )


def find_identity_with(find: Callable[[], Identity] | None) -> None:
    """Have the function tell who acts, in this process; None undoes it."""
    global _find
    _find = find


def record_with(record: Callable[[AuditEntry], None] | None) -> None:
    """Have the function take the audit log's entries; if it raises, the action goes on. None undoes it."""
    global _record
    _record = record


@contextmanager
def acting_as(identity: Identity) -> Iterator[None]:
    """Whatever the block does is done by that identity."""
    token = _acting.set(identity)
    try:
        yield
    finally:
        _acting.reset(token)


def current_identity() -> Identity:
    """Return who acts here and now."""
    if identity := _acting.get():
        return identity
    return _find() if _find else _of_process()


def for_workers(identity: Identity) -> dict[str, str]:
    """Environment variables that make a worker act for the user who started it."""
    person = identity.person
    return {_ACTING_FOR: json.dumps([person.id, person.name])} if person else {}


def may(action: Action, *, owner: str | None = None) -> bool:
    """Whether the current user may do that; `owner` owns what it would be done to."""
    return _is_allowed(current_identity(), action, owner)


def authorise(action: Action, target: str = "", *, owner: str | None = None) -> Identity:
    """Let the action happen, and return who does it; raises AccessDenied if they may not.

    Args:
        action: what is about to be done.
        target: the name or id of what it is done to, for the audit log.
        owner: whose thing that is; viewers may do some things to their own.
    """
    identity = current_identity()
    allowed = _is_allowed(identity, action, owner)
    if not allowed or (action not in _UNRECORDED and identity != SYSTEM):
        _tell(AuditEntry(who=identity.id, name=identity.name, action=action, target=target, allowed=allowed))
    if allowed:
        return identity
    require_writable()
    if identity.role is None:
        raise AccessDenied(
            N_("Your login has expired."), hint=N_("Reload the page to log in."), code="logged-out"
        )
    raise AccessDenied(
        N_("Your role doesn't allow this."),
        hint=N_("Only operators can do this. Ask one, or ask whoever runs this dashboard."),
    )


def may_see(owner: str | None, *, by_link: bool) -> bool:
    """Whether the current user may see what this owner has; `by_link`: they have its address."""
    identity = current_identity()
    if identity.role in (None, Role.GUEST):
        return False
    if identity.sees is Visibility.ALL or (owner is not None and owner == identity.owner):
        return True
    return by_link and identity.sees is Visibility.LINK


@cache
def _of_process() -> Identity:
    """The owner of the machine; of a worker whoever started it, whose leave was asked for then."""
    told = os.environ.get(_ACTING_FOR)
    if not told:
        return LOCAL
    person_id, name = json.loads(told)
    return Identity(id=person_id, name=name, role=Role.OPERATOR, login="worker")


def _is_allowed(identity: Identity, action: Action, owner: str | None) -> bool:
    if _read_only and action not in _OF_READERS:
        return False
    match identity.role:
        case Role.OPERATOR:
            return True
        case Role.VIEWER:
            if owner is None:  # an answer where nobody has an account is everybody's
                return action in _OF_VIEWERS or (action is Action.STOP_ANSWER and not identity.login)
            return action in _OF_VIEWERS or (action in _OF_OWNERS and owner == identity.owner)
        case Role.GUEST:
            return action is Action.VOTE
    return False


def _tell(entry: AuditEntry) -> None:
    if not entry.allowed:
        log.warning("action refused who=%s action=%s target=%s", entry.who, entry.action, entry.target)
    if _record:
        try:
            _record(entry)
        except Exception:
            log.exception("audit entry not stored who=%s action=%s", entry.who, entry.action)
