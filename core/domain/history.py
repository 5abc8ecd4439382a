"""What the history lists: turns of the chat and load tests, each with what a person wrote to it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class RunKind(StrEnum):
    CHAT = "chat"
    BENCH = "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """A turn or a load test as a list shows it."""

    kind: RunKind
    id: str
    created_at: datetime
    title: str
    """The start of the prompt, or the title of the plan, in one line."""
    lanes: tuple[str, ...]
    models: tuple[str, ...]
    """Of the lanes, each once; without those that name none."""
    host: str | None
    state: str
    """`done`, `running`, `stopped` or `failed`; a turn has failed if any of its answers has."""
    note: str = ""
    tag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryFilter:
    """Which entries are wanted; None is any."""

    kind: RunKind | None = None
    lane: str | None = None
    model: str | None = None
    host: str | None = None
    tag: str | None = None
    text: str = ""
    """Contained in the prompt or title, or in the note, in whatever case."""
    since: datetime | None = None
    until: datetime | None = None
    deleted: bool = False
    """Only what was deleted and not yet purged, instead of everything else."""
