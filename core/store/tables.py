"""The schema: what is kept of turns, runs and sessions, their requests, lanes, machines and messages.

Facts only; metrics are computed from a request's timestamps (`core.domain.timing`). What recurs is kept
once, under a digest of itself: lanes and machines as they were then, and the messages that a request was
sent. A message knows the one before it, so a conversation grows by what is said, not by its whole history
each turn.

A change here needs a migration (`core/store/migrations/versions`); so does a new member of a stored closed
set: an empty one, by which older programs learn that they can't read it.

A person's vote on an item of a session is one row under a key of both, so that it can't count twice,
whatever a browser sends.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.schema import SchemaItem

from core import i18n
from core.access.guard import Action
from core.access.identity import Person
from core.domain.conversation import Role, Sampling, StoredImage
from core.domain.runs import BenchPass, LaneFacts, Prompted, QualityLane, RunKind, RunState, Summary
from core.domain.sessions import (
    SessionItem,
    SessionPlan,
    SessionPrompt,
    SessionState,
    Verdict,
)
from core.domain.specs import EngineKind, LaneSpec
from core.domain.turns import ErrorInfo, FinishReason, Machine, Mode, Phase, Place, RequestRecord, UsageWindow
from core.domain.walk import WalkRun
from core.store.columns import Choice, Document, FreeText, Timestamps, UtcDateTime

# Names for every constraint: a later migration can't change what it can't name.
metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

# What describes the images; their bytes are files elsewhere. NULL is none, as in rows of older schemas.
_IMAGES = Document(tuple[StoredImage, ...])

machines = Table(
    "machines",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", FreeText, nullable=False),
    Column("facts", Document(Machine), nullable=False),
)

lanes = Table(
    "lanes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("kind", Choice(EngineKind), nullable=False),
    Column("model", Text),
    Column("spec", Document(LaneSpec), nullable=False),
)

messages = Table(
    "messages",
    metadata,
    Column("id", Text, primary_key=True),
    Column("parent_id", ForeignKey("messages.id"), index=True),
    Column("role", Choice(Role), nullable=False),
    Column("content", FreeText, nullable=False),
    Column("images", _IMAGES),
)

turns = Table(
    "turns",
    metadata,
    Column("id", Text, primary_key=True),
    Column("conversation_id", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # Not a foreign key: the turn that was replaced may be one that could not be stored.
    Column("replaces", Text, index=True),
    Column("mode", Choice(Mode), nullable=False),
    Column("sampling", Document(Sampling), nullable=False),
    Column("machine_id", ForeignKey("machines.id")),
    Column("prompt", FreeText, nullable=False),
    Column("system_prompt", FreeText, nullable=False),
    Column("images", _IMAGES),
    # Who made it (`core.access`); NULL where there are no accounts.
    Column("owner", Text),
    Index(None, "conversation_id", "created_at"),
    Index(None, "created_at"),
    Index(None, "owner", "created_at"),
)

requests = Table(
    "requests",
    metadata,
    Column("id", Text, primary_key=True),
    Column("turn_id", ForeignKey("turns.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("lane_id", ForeignKey("lanes.id"), nullable=False),
    Column("last_message_id", ForeignKey("messages.id"), index=True),
    Column("phase", Choice(Phase), nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("engine_version", FreeText),
    Column("device", Text),
    Column("served_model", FreeText),
    # NULL in rows of older schemas.
    Column("place", Document(Place)),
    Column("sent_at", UtcDateTime),
    Column("prompt_tokens", Integer),
    Column("cached_tokens", Integer),
    Column("finish_reason", Choice(FinishReason)),
    Column("error", Document(ErrorInfo)),
    Column("notes", Document(tuple[i18n.Text, ...]), nullable=False),
    Column("usage_window", Document(UsageWindow)),
    Column("stopped_by", Document(Person)),
    # The long columns last: SQLite reads a row from its start and leaves out what it isn't asked for.
    Column("timing", Timestamps),
    Column("reasoning", FreeText, nullable=False),
    Column("text", FreeText, nullable=False),
    UniqueConstraint("turn_id", "position"),
)

# The answer of a request that runs, piece by piece, so that what is written grows with the text: a row of
# `requests` is written anew with each change. Gone once the whole answer is in there.
request_pieces = Table(
    "request_pieces",
    metadata,
    Column("request_id", ForeignKey("requests.id", ondelete="CASCADE"), primary_key=True),
    Column("first_chunk", Integer, primary_key=True),
    Column("timing", Timestamps),
    Column("reasoning", FreeText, nullable=False),
    Column("text", FreeText, nullable=False),
)

# The value is part of the text: a partial index serves only statements that repeat its condition.
STILL_OPEN = text("phase <> 'done'")


Index(
    "ix_requests_open",
    requests.c.updated_at,
    sqlite_where=STILL_OPEN,
    postgresql_where=STILL_OPEN,
)


def _runs(name: str, *columns: SchemaItem) -> Table:
    """Runs of one kind: what lists show of them, and the columns of that kind."""
    return Table(
        name,
        metadata,
        Column("id", Text, primary_key=True),
        Column("created_at", UtcDateTime, nullable=False, index=True),
        Column("updated_at", UtcDateTime, nullable=False),
        Column("state", Choice(RunState), nullable=False),
        Column("title", FreeText, nullable=False),
        Column("machine_id", ForeignKey("machines.id")),
        Column("owner", Text),
        *columns,
    )


def _measured() -> tuple[Column[Any], ...]:
    """Columns of runs that measure lane by lane (`core.domain.runs.RunFacts`)."""
    return (
        Column("finished_at", UtcDateTime),
        Column("lmdyno", Text, nullable=False),
        Column("imported", Boolean, nullable=False),
        Column("error", Document(ErrorInfo)),
        Column("plan", FreeText, nullable=False),
    )


def _lanes_of(runs: str, name: str, *columns: Column[Any]) -> Table:
    """The lanes that took part in runs of one kind, in their order."""
    return Table(
        name,
        metadata,
        Column("run_id", ForeignKey(f"{runs}.id", ondelete="CASCADE"), primary_key=True),
        Column("position", Integer, primary_key=True),
        Column("lane_id", ForeignKey("lanes.id"), nullable=False),
        *columns,
    )


bench_runs = _runs("bench_runs", *_measured(), Index(None, "owner", "created_at"))
bench_lanes = _lanes_of("bench_runs", "bench_lanes", Column("facts", Document(LaneFacts), nullable=False))

bench_passes = Table(
    "bench_passes",
    metadata,
    Column("run_id", ForeignKey("bench_runs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("facts", Document(BenchPass), nullable=False),
)

bench_requests = Table(
    "bench_requests",
    metadata,
    Column("run_id", ForeignKey("bench_runs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("pass_number", Integer, nullable=False),
    Column("lane", Text, nullable=False),
    Column("warmup", Boolean, nullable=False),
    Column("planned_ns", BigInteger),
    Column("prompt_tokens", Integer),
    Column("cached_tokens", Integer),
    Column("finish_reason", Choice(FinishReason)),
    Column("error", Document(ErrorInfo)),
    Column("timing", Timestamps),
)

# Derived, so that a list of runs need not read their requests: good as long as the run was not saved since.
bench_summaries = Table(
    "bench_summaries",
    metadata,
    Column("run_id", ForeignKey("bench_runs.id", ondelete="CASCADE"), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("run_updated_at", UtcDateTime, nullable=False),
    Column("facts", Document(Summary), nullable=False),
)
quality_runs = _runs("quality_runs", *_measured())
quality_lanes = _lanes_of(
    "quality_runs", "quality_lanes", Column("facts", Document(QualityLane), nullable=False)
)

quality_answers = Table(
    "quality_answers",
    metadata,
    Column("run_id", ForeignKey("quality_runs.id", ondelete="CASCADE"), primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("part", Choice(Prompted), primary_key=True),
    Column("item", Integer, primary_key=True),
    Column("repeat", Integer, primary_key=True),
    Column("prompt_tokens", Integer),
    Column("finish_reason", Choice(FinishReason)),
    Column("error", Document(ErrorInfo)),
    Column("token_ids", Document(tuple[int, ...])),
    Column("timing", Timestamps),
    Column("text", FreeText, nullable=False),
)

walks = _runs("walks", Column("facts", Document(WalkRun), nullable=False))
walk_lanes = _lanes_of("walks", "walk_lanes")

quizzes = _runs("quizzes", Column("facts", FreeText, nullable=False))
quiz_lanes = _lanes_of("quizzes", "quiz_lanes")
sweeps = _runs("sweeps", Column("facts", FreeText, nullable=False))
sweep_lanes = _lanes_of("sweeps", "sweep_lanes")

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", UtcDateTime, nullable=False, index=True),
    Column("who", FreeText, nullable=False),
    Column("name", FreeText, nullable=False),
    Column("action", Choice(Action), nullable=False),
    Column("target", FreeText, nullable=False),
    Column("allowed", Boolean, nullable=False),
)

annotations = Table(
    "annotations",
    metadata,
    Column("kind", Choice(RunKind), primary_key=True),
    # Of a turn or a load test, so no foreign key can name it.
    Column("item_id", Text, primary_key=True),
    Column("note", FreeText, nullable=False),
    Column("tag", FreeText, nullable=False),
    Column("deleted_at", UtcDateTime),
)


prompt_sets = Table(
    "prompt_sets",
    metadata,
    Column("name", FreeText, primary_key=True),
    # Computed from the prompts, so that the same ones are kept once.
    Column("version", Text, primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("prompts", Document(tuple[SessionPrompt, ...]), nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("link", Text, nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False, index=True),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("opened_at", UtcDateTime),
    Column("closed_at", UtcDateTime),
    Column("state", Choice(SessionState), nullable=False),
    Column("owner", FreeText),
    Column("imported", Boolean, nullable=False),
    Column("machine_id", ForeignKey("machines.id")),
    Column("identical_pairs", Integer, nullable=False),
    Column("title", FreeText, nullable=False),
    Column("plan", Document(SessionPlan), nullable=False),
    Column("items", Document(tuple[SessionItem, ...]), nullable=False),
)

session_answers = Table(
    "session_answers",
    metadata,
    Column("session_id", ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("prompt", Integer, primary_key=True),
    Column("lane", Integer, primary_key=True),
    Column("sample", Integer, primary_key=True),
    Column("record", Document(RequestRecord), nullable=False),
)

session_participants = Table(
    "session_participants",
    metadata,
    Column("id", Text, primary_key=True),
    Column("session_id", ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("joined_at", UtcDateTime, nullable=False),
    Column("seat", Integer, nullable=False),
    Column("name", FreeText, nullable=False),
    # The name without its case and spacing: two people must not look alike in a list.
    Column("name_key", FreeText, nullable=False),
    Column("user", FreeText),
    Column("code", Text, nullable=False),
    UniqueConstraint("session_id", "seat"),
    UniqueConstraint("session_id", "name_key"),
    UniqueConstraint("session_id", "user"),
    UniqueConstraint("session_id", "code"),
)

session_votes = Table(
    "session_votes",
    metadata,
    Column("participant_id", ForeignKey("session_participants.id", ondelete="CASCADE"), primary_key=True),
    Column("item", Integer, primary_key=True),
    Column("session_id", ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("given_at", UtcDateTime, nullable=False),
    Column("took_s", Float),
    Column("shown", Document(tuple[int, ...]), nullable=False),
    Column("verdict", Choice(Verdict), nullable=False),
    Column("preference", Document(tuple[int, ...]), nullable=False),
    Column("reasons", Document(tuple[str, ...]), nullable=False),
    Column("comment", FreeText, nullable=False),
    Column("deploy", Choice(Verdict)),
    Column("deploy_preference", Document(tuple[int, ...])),
    Index(None, "session_id", "given_at"),
)

session_judgements = Table(
    "session_judgements",
    metadata,
    Column("session_id", ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("judge", FreeText, primary_key=True),
    Column("item", Integer, primary_key=True),
    Column("turned", Boolean, primary_key=True),
    Column("given_at", UtcDateTime, nullable=False),
    Column("verdict", Choice(Verdict)),
    Column("preference", Document(tuple[int, ...]), nullable=False),
    Column("error", Document(ErrorInfo)),
    Column("text", FreeText, nullable=False),
)
