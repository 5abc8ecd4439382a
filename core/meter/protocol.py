"""Updates about a turn, and the messages between the meter's process and the dashboard.

On the wire each line is one JSON document (`core.codec`). A connection carries one `Command` and its `Reply`,
which for `follow` goes on with `Update`s up to the one that holds the record. A lock shows others whether a
meter of this home is running.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from core.access.identity import Person
from core.domain.turns import ErrorInfo, Phase, RequestRecord, TurnPlan, TurnRecord
from core.files import is_held, lock_path, try_lock, unlock
from core.i18n import N_
from core.settings import Settings

METER_DIED = ErrorInfo(
    code="meter-died",
    message=N_("The meter's process ended in the middle of the answer."),
    hint=N_("The text so far is kept. Ask again. If it happens again, see the dashboard's log."),
)
_PATIENCE_S = 0.1
"""Longer than anybody holds the lock just to look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """News of one request."""

    request_id: str
    phase: Phase
    place: int | None = None
    """While QUEUED for its device: 1 is next. None while it waits for its place in its own turn."""
    content: str = ""
    """New text since the last update."""
    reasoning: str = ""
    record: RequestRecord | None = None
    """Set when the phase is DONE."""


class Verb(StrEnum):
    """The requests that the meter's process answers."""

    START = "start"
    FOLLOW = "follow"
    CANCEL = "cancel"
    TURN = "turn"
    CONVERSATION = "conversation"
    SAVE = "save"
    CLOSE = "close"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One line to the meter's process."""

    token: str = field(repr=False)
    verb: Verb
    plan: TurnPlan | None = None
    turn_id: str = ""
    request_id: str | None = None
    conversation_id: str = ""
    by: Person | None = None
    """Who cancels."""
    record: RequestRecord | None = None
    """What to save: a request of a meter that died, as it was shown last, with the plan of its turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The process's answer to a command; `error` if it could not be done."""

    turn: TurnRecord | None = None
    turns: tuple[TurnRecord, ...] = ()
    """Of a conversation those that the store doesn't have as they are."""
    last_turn_id: str | None = None
    """The turn of the conversation that was started last."""
    store_problem: ErrorInfo | None = None
    error: ErrorInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The first line on the process's standard input, which it then holds open as a sign of life.

    Paths and the database URL travel here instead of in arguments, where every user of the machine sees them.
    """

    token: str = field(repr=False)
    socket_fd: int
    """The inherited, bound Unix socket to listen on."""
    home: str
    lanes_file: str
    database_url: str = field(repr=False)
    secrets_file: str
    lost_turns: tuple[str, ...] = ()
    """Turns that ran in a meter that died; what they left open in the store is ended."""
    lost_plans: tuple[TurnPlan, ...] = ()
    """The newest of them, which that meter may not have stored yet."""

    @property
    def settings(self) -> Settings:
        return Settings(
            home=Path(self.home),
            lanes_file=Path(self.lanes_file),
            database_url=self.database_url,
            secrets_file=Path(self.secrets_file),
        )


@contextmanager
def marked_running(settings: Settings) -> Iterator[None]:
    """Mark a meter as running; each dashboard may have one."""
    descriptor = try_lock(_running_lock(settings), shared=True, patience_s=_PATIENCE_S)
    try:
        yield
    finally:
        if descriptor is not None:
            unlock(descriptor)


def is_running(settings: Settings) -> bool:
    return is_held(_running_lock(settings))


def _running_lock(settings: Settings) -> Path:
    return lock_path(settings.locks_dir, "meter")
