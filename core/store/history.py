"""The history: all turns and load tests in one list, with notes, tags, and deleting that can be undone.

Purging removes deleted entries for good: their rows, and messages and images that were only theirs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    Text,
    delete,
    func,
    select,
    text,
    type_coerce,
    union_all,
)

from core.access.guard import Action, authorise
from core.domain.conversation import named_images
from core.domain.history import HistoryChoices, HistoryEntry, HistoryFilter, RunKind, Summary
from core.domain.turns import utc_now
from core.store import history_entries
from core.store.access import Access, by_link, insert_new, listed, upsert
from core.store.history_entries import SUMMARY_VERSION, TABLES
from core.store.tables import (
    annotations,
    bench_runs,
    bench_summaries,
    lanes,
    machines,
    messages,
    quality_runs,
    quizzes,
    requests,
    sessions,
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
    """The entries, jobs and images that were removed for good."""

    entries: int = 0
    job_results: frozenset[str] = frozenset()
    """Ids of the removed entries whose jobs have files of their own."""
    images: frozenset[str] = frozenset()
    """Hashes of the images that nothing in this database refers to any more."""


class History(Access):
    """Thread-safe; every method but `close` raises StoreError, and those that write AccessDenied.

    What whoever acts may not see (`core.access`) is as if it were not there.
    """

    def entries(
        self, chosen: HistoryFilter | None = None, *, limit: int = 100, offset: int = 0
    ) -> tuple[HistoryEntry, ...]:
        """The entries that fit, newest first."""
        chosen = chosen or HistoryFilter()
        with self._reading() as connection:
            # Each part is cut to what the page could show of it, so that its index on the time is enough.
            parts = [
                history_entries.part(kind, history_entries.conditions(kind, chosen)).limit(offset + limit)
                for kind in _kinds(chosen)
            ]
            both = union_all(*(select(part.subquery()) for part in parts)).subquery()
            rows = connection.execute(
                select(both).order_by(both.c.created_at.desc(), both.c.id).limit(limit).offset(offset)
            ).all()
            return history_entries.entries(connection, rows)

    def find(self, ids: Iterable[str]) -> tuple[HistoryEntry, ...]:
        """The entries with these ids, deleted ones too, in the order asked for.

        Left out are unknown ids, and what whoever acts may not see even by its address.
        """
        unique_ids = list(dict.fromkeys(ids))
        with self._reading() as connection:
            rows = [
                row
                for kind, table in TABLES.items()
                for row in connection.execute(
                    history_entries.part(kind, [table.c.id.in_(unique_ids), by_link(table.c.owner)])
                )
            ]
            by_id = {entry.id: entry for entry in history_entries.entries(connection, rows)}
        return tuple(by_id[item_id] for item_id in unique_ids if item_id in by_id)

    def count(self, chosen: HistoryFilter | None = None) -> int:
        """Return how many entries fit."""
        chosen = chosen or HistoryFilter()
        with self._reading() as connection:
            return sum(
                connection.scalar(
                    select(func.count()).select_from(
                        history_entries.part(kind, history_entries.conditions(kind, chosen))
                        .order_by(None)
                        .subquery()
                    )
                )
                or 0
                for kind in _kinds(chosen)
            )

    def choices(self) -> HistoryChoices:
        """Return what a filter can ask for."""
        with self._reading() as connection:
            return HistoryChoices(
                lanes=_used(connection, lanes.c.name),
                models=_used(connection, lanes.c.model),
                hosts=_used(connection, machines.c.host),
                tags=_used_tags(connection),
            )

    def tags(self) -> tuple[str, ...]:
        """All tags in use, in the order of the alphabet."""
        with self._reading() as connection:
            return _used_tags(connection)

    def annotate(self, kind: RunKind, item_id: str, *, note: str, tag: str) -> None:
        """Write a note and a tag to a turn or a load test, over those it has."""
        self._authorise(Action.ANNOTATE, kind, [item_id])
        with self._writing() as connection:
            self._set(connection, kind, item_id, {"note": note, "tag": tag})

    def set_tag(self, kind: RunKind, item_ids: Iterable[str], tag: str) -> None:
        """Write a tag over those that the entries have; "" takes it away."""
        item_ids = list(item_ids)
        self._authorise(Action.ANNOTATE, kind, item_ids)
        with self._writing() as connection:
            for item_id in item_ids:
                self._set(connection, kind, item_id, {"tag": tag})

    def keep_summary(self, run_id: str, run_updated_at: datetime, summary: Summary) -> None:
        """Keep what a list shows of a load test, until the run is saved again."""
        row = {
            "run_id": run_id,
            "version": SUMMARY_VERSION,
            "run_updated_at": run_updated_at,
            "facts": summary,
        }
        with self._writing() as connection:
            upsert(connection, bench_summaries, [row])

    def delete(self, kind: RunKind, item_ids: Iterable[str]) -> None:
        """Take entries out of all lists; they can be restored until they are purged."""
        now = utc_now()
        item_ids = list(item_ids)
        self._authorise(Action.DELETE, kind, item_ids)
        with self._writing() as connection:
            for item_id in item_ids:
                self._set(connection, kind, item_id, {"deleted_at": now})

    def restore(self, kind: RunKind, item_ids: Iterable[str]) -> None:
        """Undo `delete`."""
        item_ids = list(item_ids)
        self._authorise(Action.RESTORE, kind, item_ids)
        with self._writing() as connection:
            for item_id in item_ids:
                self._set(connection, kind, item_id, {"deleted_at": None})

    def purge(self, deleted_before: datetime) -> Purged:
        """Remove for good what was deleted before that moment; the files of images are the caller's."""
        authorise(Action.PURGE, f"deleted before {deleted_before:%Y-%m-%d %H:%M}")
        with self._writing() as connection:
            return purge(connection, deleted_before)

    def _authorise(self, action: Action, kind: RunKind, item_ids: Sequence[str]) -> None:
        """Before a transaction begins: the audit log is written in one of its own."""
        table = TABLES[kind]
        with self._reading() as connection:
            rows = connection.execute(select(table.c.id, table.c.owner).where(table.c.id.in_(item_ids)))
            owners = {row.id: row.owner for row in rows}
        for item_id in item_ids:
            authorise(action, f"{kind} {item_id}", owner=owners.get(item_id))

    def _set(self, connection: Connection, kind: RunKind, item_id: str, values: dict[str, Any]) -> None:
        insert_new(
            connection,
            annotations,
            [{"kind": kind, "item_id": item_id, "note": "", "tag": "", "deleted_at": None}],
        )
        connection.execute(
            annotations.update()
            .where(annotations.c.kind == kind, annotations.c.item_id == item_id)
            .values(values)
        )


def _kinds(chosen: HistoryFilter) -> list[RunKind]:
    return [chosen.kind] if chosen.kind else list(RunKind)


def _used_tags(connection: Connection) -> tuple[str, ...]:
    """Tags of the entries that the current user sees in lists."""
    tags = {
        tag
        for kind, table in TABLES.items()
        for tag in connection.scalars(
            select(annotations.c.tag)
            .join(table, (annotations.c.kind == kind) & (annotations.c.item_id == table.c.id))
            .where(listed(table.c.owner))
            .distinct()
        )
    }
    return tuple(sorted(tag for tag in tags if tag))


def _used(connection: Connection, column: ColumnElement[Any]) -> tuple[str, ...]:
    return tuple(sorted(value for value in connection.scalars(select(column).distinct()) if value))


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
