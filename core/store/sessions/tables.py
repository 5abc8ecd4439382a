"""The schema of evaluation sessions: prompt sets, sessions, answers, participants, votes, judgements.

A person's vote on an item is one row under a key of both, so that it can't count twice, whatever a browser
sends. Facts only; results are computed from them (`core.sessions`).
"""

from sqlalchemy import Boolean, Column, Float, ForeignKey, Index, Integer, Table, Text, UniqueConstraint

from core.domain.sessions import (
    SessionItem,
    SessionPlan,
    SessionPrompt,
    SessionState,
    Verdict,
)
from core.domain.turns import ErrorInfo, RequestRecord
from core.store.columns import Choice, Document, FreeText, UtcDateTime
from core.store.tables import metadata

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
