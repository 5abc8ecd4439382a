"""What goes for good with deleted entries: their rows, and messages and images that were only theirs."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, Text, delete, select, text, type_coerce

from core.domain.history import RunKind
from core.domain.images import named_images
from core.store.history_entries import TABLES
from core.store.sessions.tables import sessions
from core.store.tables import (
    annotations,
    bench_runs,
    messages,
    quality_runs,
    quizzes,
    requests,
    sweeps,
    turns,
    walks,
)

_NAMING: dict[Table, ColumnElement[Any]] = {
    # As text: a record that can't be read any more still names its images.
    turns: type_coerce(turns.c.images, Text),
    messages: type_coerce(messages.c.images, Text),
    bench_runs: bench_runs.c.plan,
    sessions: type_coerce(sessions.c.plan, Text),
    quality_runs: quality_runs.c.plan,
    walks: type_coerce(walks.c.facts, Text),
    quizzes: quizzes.c.facts,
    sweeps: sweeps.c.facts,
}
"""Of each table the column that names images."""

_JOB_RESULTS = frozenset({RunKind.QUIZ, RunKind.SWEEP})


@dataclass(frozen=True, slots=True)
class Purged:
    """What was removed for good."""

    entries: int = 0
    job_results: frozenset[str] = frozenset()
    """Ids of the removed entries whose jobs have files of their own."""
    images: frozenset[str] = frozenset()
    """Hashes of the images that nothing in this database refers to any more."""


def purge(connection: Connection, deleted_before: datetime) -> Purged:
    """Remove what was deleted before that moment, in the connection's transaction."""
    _hold_off_writers(connection)
    removed, gone = 0, frozenset[str]()
    job_results = frozenset[str]()
    for kind, table in TABLES.items():
        old = table.c.id.in_(
            select(annotations.c.item_id).where(
                annotations.c.kind == kind, annotations.c.deleted_at < deleted_before
            )
        )
        gone |= _named(connection, table, old)
        if kind in _JOB_RESULTS:
            job_results |= frozenset(connection.scalars(select(table.c.id).where(old)))
        removed += connection.execute(delete(table).where(old)).rowcount
    connection.execute(delete(annotations).where(annotations.c.deleted_at < deleted_before))
    if removed:
        gone |= _purge_messages(connection)
    if gone:
        gone = gone.difference(*(_named(connection, table) for table in _NAMING))
    return Purged(removed, job_results, gone)


def _hold_off_writers(connection: Connection) -> None:
    """Nobody may refer to a message between the look at it and its end. In SQLite nobody can."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE messages IN SHARE ROW EXCLUSIVE MODE"))


def _purge_messages(connection: Connection) -> frozenset[str]:
    """Remove the messages that no request was sent; returns the images that they named."""
    sent = select(requests.c.last_message_id.label("id")).where(requests.c.last_message_id.is_not(None))
    thread = sent.cte("thread", recursive=True)
    thread = thread.union(
        select(messages.c.parent_id).where(messages.c.id == thread.c.id, messages.c.parent_id.is_not(None))
    )
    unsent = messages.c.id.not_in(select(thread.c.id))
    named = _named(connection, messages, unsent)
    connection.execute(delete(messages).where(unsent))
    return named


def _named(connection: Connection, table: Table, *conditions: ColumnElement[bool]) -> frozenset[str]:
    column = _NAMING[table]
    return named_images(connection.scalars(select(column).where(column.is_not(None), *conditions)))
