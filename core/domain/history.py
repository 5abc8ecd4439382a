"""Entries of the history: turns of the chat and load tests, each with what a person wrote to it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from core.domain.specs import LaneSpec
from core.domain.turns import Machine


class RunKind(StrEnum):
    CHAT = "chat"
    BENCH = "bench"
    QUALITY = "quality"
    WALK = "walk"
    QUIZ = "quiz"
    SWEEP = "sweep"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSummary:
    """One lane of an entry in two figures; None where its answers leave them undefined."""

    lane: str
    ttft_s: float | None
    """Of a turn's request; of a load test the p50 at the lane's lightest load."""
    decode_tok_per_s: float | None
    """Likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """An entry in the few figures of a list."""

    lanes: tuple[LaneSummary, ...]
    answered: int
    """Requests answered to their end, without warm-up."""
    failed: int
    """Requests that ended by an error, and lanes that could not take part in a load test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLane:
    """A lane of a benchmark or quality run that has ended, and what it was measured on."""

    run_id: str
    measured_at: datetime
    plan: str
    """The run's plan as JSON."""
    lane: LaneSpec
    engine_version: str | None
    machine: Machine | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """A turn or a load test as a list shows it."""

    kind: RunKind
    id: str
    created_at: datetime
    updated_at: datetime
    """When a load test was last saved; of a turn when it was asked."""
    title: str
    """The start of the prompt, or the title of the plan, in one line."""
    lanes: tuple[str, ...]
    models: tuple[str, ...]
    """Of the lanes, each once; without those that name none."""
    host: str | None
    state: str
    """`done`, `running`, `stopped` or `failed`; a turn has failed if any of its answers has."""
    with_images: bool = False
    """Of a turn: its prompt had images, its own or earlier turns', and so a TTFT apart from text."""
    note: str = ""
    tag: str = ""
    deleted_at: datetime | None = None
    """When it was taken out of the lists; None for everything that was not."""
    owner: str | None = None
    """Whose it is (`core.access`); None where there are no accounts."""
    summary: Summary | None = None
    """None for a load test that goes on, or whose summary has not been kept yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryChoices:
    """The values that a filter offers: everything that is in the store, in the order of the alphabet."""

    lanes: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryFilter:
    """A filter of the history; None is any."""

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
