"""The history: all turns and runs in one list, with notes, tags, and deleting that can be undone.

Purging removes deleted entries for good: their rows, and messages and images that were only theirs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    Text,
    delete,
    false,
    func,
    literal,
    null,
    or_,
    select,
    text,
    type_coerce,
    union_all,
)

from core.access.guard import Action, authorise
from core.domain.conversation import named_images
from core.domain.runs import (
    HistoryChoices,
    HistoryEntry,
    HistoryFilter,
    LaneSummary,
    RunKind,
    RunState,
    Summary,
)
from core.domain.specs import LaneSpec
from core.domain.turns import FinishReason, Phase, utc_now
from core.store.access import Access, by_link, insert_new, listed, upsert
from core.store.run_tables import is_interrupted
from core.store.tables import (
    annotations,
    bench_lanes,
    bench_runs,
    bench_summaries,
    lanes,
    machines,
    messages,
    quality_lanes,
    quality_runs,
    quiz_lanes,
    quizzes,
    requests,
    sessions,
    sweep_lanes,
    sweeps,
    turns,
    walk_lanes,
    walks,
)

_SUMMARY_VERSION = 1
"""Of the formulas behind a load test's summary; summaries of another version are made anew."""
_TITLE_CHARS = 120
_TABLES: Mapping[RunKind, Table] = {
    RunKind.CHAT: turns,
    RunKind.BENCH: bench_runs,
    RunKind.QUALITY: quality_runs,
    RunKind.WALK: walks,
    RunKind.QUIZ: quizzes,
    RunKind.SWEEP: sweeps,
}
_LANES: Mapping[RunKind, Table] = {
    RunKind.BENCH: bench_lanes,
    RunKind.QUALITY: quality_lanes,
    RunKind.WALK: walk_lanes,
    RunKind.QUIZ: quiz_lanes,
    RunKind.SWEEP: sweep_lanes,
}
"""Of the kinds that are runs: which lanes took part in each."""
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
            parts = [_part(kind, _conditions(kind, chosen)).limit(offset + limit) for kind in _kinds(chosen)]
            both = union_all(*(select(part.subquery()) for part in parts)).subquery()
            rows = connection.execute(
                select(both).order_by(both.c.created_at.desc(), both.c.id).limit(limit).offset(offset)
            ).all()
            return _entries(connection, rows)

    def find(self, ids: Iterable[str]) -> tuple[HistoryEntry, ...]:
        """The entries with these ids, deleted ones too, in the order asked for.

        Left out are unknown ids, and what whoever acts may not see even by its address.
        """
        unique_ids = list(dict.fromkeys(ids))
        with self._reading() as connection:
            rows = [
                row
                for kind, table in _TABLES.items()
                for row in connection.execute(
                    _part(kind, [table.c.id.in_(unique_ids), by_link(table.c.owner)])
                )
            ]
            by_id = {entry.id: entry for entry in _entries(connection, rows)}
        return tuple(by_id[item_id] for item_id in unique_ids if item_id in by_id)

    def count(self, chosen: HistoryFilter | None = None) -> int:
        """Return how many entries fit."""
        chosen = chosen or HistoryFilter()
        with self._reading() as connection:
            return sum(
                connection.scalar(
                    select(func.count()).select_from(
                        _part(kind, _conditions(kind, chosen)).order_by(None).subquery()
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
            "version": _SUMMARY_VERSION,
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
            return _purge(connection, deleted_before)

    def _authorise(self, action: Action, kind: RunKind, item_ids: Sequence[str]) -> None:
        """Before a transaction begins: the audit log is written in one of its own."""
        table = _TABLES[kind]
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
        for kind, table in _TABLES.items()
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


def _part(kind: RunKind, conditions: Iterable[ColumnElement[bool]]) -> Select[Any]:
    """The rows of one kind under these conditions, newest first."""
    table = _TABLES[kind]
    is_run = kind in _LANES
    return (
        select(
            literal(kind.value).label("kind"),
            table.c.id,
            table.c.created_at,
            func.substr(_title(kind), 1, _TITLE_CHARS).label("title"),
            machines.c.host,
            annotations.c.note,
            annotations.c.tag,
            annotations.c.deleted_at,
            table.c.owner,
            # A turn has no state of its own, and nothing asks when it was updated.
            (type_coerce(table.c.state, Text) if is_run else literal("")).label("state"),
            (table.c.updated_at if is_run else turns.c.created_at).label("updated_at"),
            (false() if is_run else _saw_images()).label("with_images"),
        )
        .select_from(table)
        .outerjoin(machines, machines.c.id == table.c.machine_id)
        .outerjoin(annotations, (annotations.c.kind == kind) & (annotations.c.item_id == table.c.id))
        .where(*conditions)
        .order_by(table.c.created_at.desc(), table.c.id)
    )


def _conditions(kind: RunKind, chosen: HistoryFilter) -> list[ColumnElement[bool]]:
    """Return what `chosen` asks of the rows of a kind, and which of them whoever acts may see in lists."""
    table = _TABLES[kind]
    is_deleted = annotations.c.deleted_at.is_not(None)
    terms: list[ColumnElement[bool]] = [listed(table.c.owner), is_deleted if chosen.deleted else ~is_deleted]
    if chosen.since is not None:
        terms.append(table.c.created_at >= chosen.since)
    if chosen.until is not None:
        terms.append(table.c.created_at < chosen.until)
    if chosen.host is not None:
        terms.append(machines.c.host == chosen.host)
    if chosen.tag is not None:
        terms.append(annotations.c.tag == chosen.tag)
    if chosen.text:
        terms.append(
            or_(
                _title(kind).icontains(chosen.text, autoescape=True),
                annotations.c.note.icontains(chosen.text, autoescape=True),
            )
        )
    if chosen.lane is not None or chosen.model is not None:
        terms.append(_has_lane(kind, chosen))
    return terms


def _has_lane(kind: RunKind, chosen: HistoryFilter) -> ColumnElement[bool]:
    table = _TABLES[kind]
    part_of, entry_id = (
        (requests, requests.c.turn_id) if kind is RunKind.CHAT else (_LANES[kind], _LANES[kind].c.run_id)
    )
    took_part = (
        select(lanes.c.id)
        .join(part_of, part_of.c.lane_id == lanes.c.id)
        .where(entry_id == table.c.id)
        .correlate(table)
    )
    if chosen.lane is not None:
        took_part = took_part.where(lanes.c.name == chosen.lane)
    if chosen.model is not None:
        took_part = took_part.where(lanes.c.model == chosen.model)
    return took_part.exists()


def _saw_images() -> ColumnElement[bool]:
    """Whether the turn's prompt had images, its own ones or those of earlier turns."""
    earlier = turns.alias()
    return (
        select(earlier.c.id)
        .where(
            earlier.c.conversation_id == turns.c.conversation_id,
            earlier.c.created_at <= turns.c.created_at,
            earlier.c.images.is_not(null()),
        )
        .correlate(turns)
        .exists()
    )


def _entries(connection: Connection, rows: Sequence[Row[Any]]) -> tuple[HistoryEntry, ...]:
    """The rows of `_part` as entries, in their order."""
    turn_ids = [row.id for row in rows if row.kind == RunKind.CHAT]
    run_ids = [row.id for row in rows if row.kind == RunKind.BENCH]
    answers = _answers(connection, turn_ids)
    took_part = {turn_id: [row.spec for row in lane_answers] for turn_id, lane_answers in answers.items()}
    for kind, part_of in _LANES.items():
        took_part |= _run_lanes(connection, part_of, [row.id for row in rows if row.kind == kind])
    summaries = {turn_id: _turn_summary(lane_answers) for turn_id, lane_answers in answers.items()}
    summaries |= _kept_summaries(connection, run_ids)
    return tuple(
        HistoryEntry(
            kind=RunKind(row.kind),
            id=row.id,
            created_at=row.created_at,
            updated_at=row.updated_at,
            title=" ".join(row.title.split()),
            lanes=tuple(lane.name for lane in took_part.get(row.id, ())),
            models=tuple(
                dict.fromkeys(model for lane in took_part.get(row.id, ()) if (model := _model(lane)))
            ),
            with_images=row.with_images,
            host=row.host,
            state=_turn_state(answers.get(row.id, ())) if row.kind == RunKind.CHAT else _run_state(row),
            note=row.note or "",
            tag=row.tag or "",
            deleted_at=row.deleted_at,
            owner=row.owner,
            summary=summaries.get(row.id),
        )
        for row in rows
    )


def _title(kind: RunKind) -> ColumnElement[str]:
    return turns.c.prompt if kind is RunKind.CHAT else _TABLES[kind].c.title


def _run_lanes(connection: Connection, part_of: Table, ids: list[str]) -> dict[str, list[LaneSpec]]:
    chosen = (
        select(part_of.c.run_id, lanes.c.spec)
        .join(lanes, lanes.c.id == part_of.c.lane_id)
        .where(part_of.c.run_id.in_(ids))
        .order_by(part_of.c.position)
    )
    by_run: dict[str, list[LaneSpec]] = {}
    for row in connection.execute(chosen):
        by_run.setdefault(row.run_id, []).append(row.spec)
    return by_run


def _answers(connection: Connection, ids: list[str]) -> dict[str, list[Row[Any]]]:
    """Of each turn its requests' lanes, ends and timestamps, in the order in which they were planned."""
    chosen: Select[Any] = (
        select(
            requests.c.turn_id, lanes.c.spec, requests.c.phase, requests.c.finish_reason, requests.c.timing
        )
        .join(lanes, lanes.c.id == requests.c.lane_id)
        .where(requests.c.turn_id.in_(ids))
        .order_by(requests.c.position)
    )
    by_turn: dict[str, list[Row[Any]]] = {}
    for row in connection.execute(chosen):
        by_turn.setdefault(row.turn_id, []).append(row)
    return by_turn


def _turn_summary(answers: Sequence[Row[Any]]) -> Summary:
    ended = [row.finish_reason for row in answers if row.phase is Phase.DONE]
    failed = ended.count(FinishReason.ERROR)
    return Summary(
        lanes=tuple(
            LaneSummary(
                lane=row.spec.name,
                ttft_s=row.timing.ttft_s if row.timing else None,
                decode_tok_per_s=row.timing.decode_tok_per_s if row.timing else None,
            )
            for row in answers
        ),
        answered=len(ended) - failed - ended.count(FinishReason.CANCELLED),
        failed=failed,
    )


def _turn_state(answers: Sequence[Row[Any]]) -> str:
    """`failed` if any answer failed, else `running` if any is open, else `done`."""
    if any(row.finish_reason is FinishReason.ERROR for row in answers):
        return RunState.FAILED.value
    is_open = any(row.phase is not Phase.DONE for row in answers)
    return RunState.RUNNING.value if is_open else RunState.DONE.value


def _kept_summaries(connection: Connection, ids: list[str]) -> dict[str, Summary]:
    """The summaries that are still true of these load tests."""
    chosen = (
        select(bench_summaries.c.run_id, bench_summaries.c.facts)
        .join(bench_runs, bench_runs.c.id == bench_summaries.c.run_id)
        .where(
            bench_summaries.c.run_id.in_(ids),
            bench_summaries.c.version == _SUMMARY_VERSION,
            bench_summaries.c.run_updated_at == bench_runs.c.updated_at,
        )
    )
    return {row.run_id: row.facts for row in connection.execute(chosen)}


def _run_state(row: Row[Any]) -> str:
    state = RunState(row.state)
    return (RunState.FAILED if is_interrupted(state, row.updated_at) else state).value


def _model(lane: LaneSpec) -> str | None:
    if lane.model:
        return lane.model.name
    return lane.endpoint.model if lane.endpoint else None


def _purge(connection: Connection, deleted_before: datetime) -> Purged:
    """Remove what was deleted before that moment, in the connection's transaction."""
    _hold_off_writers(connection)
    removed, gone = 0, frozenset[str]()
    job_results = frozenset[str]()
    for kind, table in _TABLES.items():
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
