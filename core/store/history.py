"""The history: all turns and load tests in one list, with notes, tags, and deleting that can be undone."""

from collections.abc import Iterable, Mapping, Sequence
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
    func,
    literal,
    or_,
    select,
    type_coerce,
    union_all,
)

from core.domain.bench import RunState
from core.domain.history import HistoryEntry, HistoryFilter, RunKind
from core.domain.runs import FinishReason, Phase, utc_now
from core.domain.specs import LaneSpec
from core.store.access import Access, insert_new
from core.store.bench_runs import is_interrupted
from core.store.tables import annotations, bench_lanes, bench_runs, lanes, machines, requests, turns

_TITLE_CHARS = 120
_TABLES: Mapping[RunKind, Table] = {RunKind.CHAT: turns, RunKind.BENCH: bench_runs}


class History(Access):
    """Thread-safe; every method but `close` raises StoreError."""

    def entries(
        self, wanted: HistoryFilter | None = None, *, limit: int = 100, offset: int = 0
    ) -> tuple[HistoryEntry, ...]:
        """The entries that fit, newest first."""
        wanted = wanted or HistoryFilter()
        kinds = [wanted.kind] if wanted.kind else list(RunKind)
        with self._reading() as connection:
            # Each part is cut to what the page could show of it, so that its index on the time is enough.
            parts = [_part(kind, wanted).limit(offset + limit).subquery() for kind in kinds]
            both = union_all(*(select(part) for part in parts)).subquery()
            rows = connection.execute(
                select(both).order_by(both.c.created_at.desc(), both.c.id).limit(limit).offset(offset)
            ).all()
            return _entries(connection, rows)

    def count(self, wanted: HistoryFilter | None = None) -> int:
        """How many entries fit."""
        wanted = wanted or HistoryFilter()
        kinds = [wanted.kind] if wanted.kind else list(RunKind)
        with self._reading() as connection:
            return sum(
                connection.scalar(
                    select(func.count()).select_from(_part(kind, wanted).order_by(None).subquery())
                )
                or 0
                for kind in kinds
            )

    def tags(self) -> tuple[str, ...]:
        """All tags in use, in the order of the alphabet."""
        with self._reading() as connection:
            chosen = select(annotations.c.tag).where(annotations.c.tag != "").distinct()
            return tuple(sorted(connection.scalars(chosen)))

    def annotate(self, kind: RunKind, item_id: str, *, note: str, tag: str) -> None:
        """Write a note and a tag to a turn or a load test, over those it has."""
        with self._writing() as connection:
            self._set(connection, kind, item_id, {"note": note, "tag": tag})

    def delete(self, kind: RunKind, item_ids: Iterable[str]) -> None:
        """Take entries out of all lists; they can be restored until they are purged."""
        now = utc_now()
        with self._writing() as connection:
            for item_id in item_ids:
                self._set(connection, kind, item_id, {"deleted_at": now})

    def restore(self, kind: RunKind, item_ids: Iterable[str]) -> None:
        """Undo `delete`."""
        with self._writing() as connection:
            for item_id in item_ids:
                self._set(connection, kind, item_id, {"deleted_at": None})

    def purge(self, deleted_before: datetime) -> int:
        """Remove for good what was deleted before that moment; returns how many entries."""
        removed = 0
        with self._writing() as connection:
            for kind, table in _TABLES.items():
                old = select(annotations.c.item_id).where(
                    annotations.c.kind == kind, annotations.c.deleted_at < deleted_before
                )
                removed += connection.execute(delete(table).where(table.c.id.in_(old))).rowcount
            connection.execute(delete(annotations).where(annotations.c.deleted_at < deleted_before))
        return removed

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


def _part(kind: RunKind, wanted: HistoryFilter) -> Select[Any]:
    """The rows of one kind that fit, newest first."""
    table = _TABLES[kind]
    is_bench = kind is RunKind.BENCH
    title = bench_runs.c.title if is_bench else turns.c.prompt
    return (
        select(
            literal(kind.value).label("kind"),
            table.c.id,
            table.c.created_at,
            func.substr(title, 1, _TITLE_CHARS).label("title"),
            machines.c.host,
            annotations.c.note,
            annotations.c.tag,
            # A turn has no state of its own, and nothing asks when it was updated.
            (type_coerce(bench_runs.c.state, Text) if is_bench else literal("")).label("state"),
            (bench_runs.c.updated_at if is_bench else turns.c.created_at).label("updated_at"),
        )
        .select_from(table)
        .outerjoin(machines, machines.c.id == table.c.machine_id)
        .outerjoin(annotations, (annotations.c.kind == kind) & (annotations.c.item_id == table.c.id))
        .where(*_conditions(kind, wanted, title))
        .order_by(table.c.created_at.desc(), table.c.id)
    )


def _conditions(kind: RunKind, wanted: HistoryFilter, title: ColumnElement[str]) -> list[ColumnElement[bool]]:
    table = _TABLES[kind]
    is_deleted = annotations.c.deleted_at.is_not(None)
    found: list[ColumnElement[bool]] = [is_deleted if wanted.deleted else ~is_deleted]
    if wanted.since is not None:
        found.append(table.c.created_at >= wanted.since)
    if wanted.until is not None:
        found.append(table.c.created_at < wanted.until)
    if wanted.host is not None:
        found.append(machines.c.host == wanted.host)
    if wanted.tag is not None:
        found.append(annotations.c.tag == wanted.tag)
    if wanted.text:
        found.append(
            or_(
                title.icontains(wanted.text, autoescape=True),
                annotations.c.note.icontains(wanted.text, autoescape=True),
            )
        )
    if wanted.lane is not None or wanted.model is not None:
        found.append(_has_lane(kind, wanted))
    return found


def _has_lane(kind: RunKind, wanted: HistoryFilter) -> ColumnElement[bool]:
    took_part = (
        select(lanes.c.id)
        .join(requests, requests.c.lane_id == lanes.c.id)
        .where(requests.c.turn_id == turns.c.id)
        .correlate(turns)
        if kind is RunKind.CHAT
        else select(lanes.c.id)
        .join(bench_lanes, bench_lanes.c.lane_id == lanes.c.id)
        .where(bench_lanes.c.run_id == bench_runs.c.id)
        .correlate(bench_runs)
    )
    if wanted.lane is not None:
        took_part = took_part.where(lanes.c.name == wanted.lane)
    if wanted.model is not None:
        took_part = took_part.where(lanes.c.model == wanted.model)
    return took_part.exists()


def _entries(connection: Connection, rows: Sequence[Row[Any]]) -> tuple[HistoryEntry, ...]:
    turn_ids = [row.id for row in rows if row.kind == RunKind.CHAT]
    took_part = _turn_lanes(connection, turn_ids) | _bench_lanes(
        connection, [row.id for row in rows if row.kind == RunKind.BENCH]
    )
    states = _turn_states(connection, turn_ids)
    return tuple(
        HistoryEntry(
            kind=RunKind(row.kind),
            id=row.id,
            created_at=row.created_at,
            title=" ".join(row.title.split()),
            lanes=tuple(lane.name for lane in took_part.get(row.id, ())),
            models=tuple(
                dict.fromkeys(model for lane in took_part.get(row.id, ()) if (model := _model(lane)))
            ),
            host=row.host,
            state=states[row.id] if row.kind == RunKind.CHAT else _bench_state(row),
            note=row.note or "",
            tag=row.tag or "",
        )
        for row in rows
    )


def _turn_lanes(connection: Connection, ids: list[str]) -> dict[str, list[LaneSpec]]:
    chosen = (
        select(requests.c.turn_id.label("item"), lanes.c.spec)
        .join(lanes, lanes.c.id == requests.c.lane_id)
        .where(requests.c.turn_id.in_(ids))
        .order_by(requests.c.position)
    )
    return _by_item(connection, chosen)


def _bench_lanes(connection: Connection, ids: list[str]) -> dict[str, list[LaneSpec]]:
    chosen = (
        select(bench_lanes.c.run_id.label("item"), lanes.c.spec)
        .join(lanes, lanes.c.id == bench_lanes.c.lane_id)
        .where(bench_lanes.c.run_id.in_(ids))
        .order_by(bench_lanes.c.position)
    )
    return _by_item(connection, chosen)


def _by_item(connection: Connection, chosen: Select[Any]) -> dict[str, list[LaneSpec]]:
    found: dict[str, list[LaneSpec]] = {}
    for row in connection.execute(chosen):
        found.setdefault(row.item, []).append(row.spec)
    return found


def _turn_states(connection: Connection, ids: list[str]) -> dict[str, str]:
    """`failed` if any answer failed, else `running` if any is open, else `done`."""
    states = dict.fromkeys(ids, RunState.DONE.value)
    chosen = select(requests.c.turn_id, requests.c.phase, requests.c.finish_reason)
    for row in connection.execute(chosen.where(requests.c.turn_id.in_(ids))):
        if row.finish_reason is FinishReason.ERROR:
            states[row.turn_id] = RunState.FAILED.value
        elif row.phase is not Phase.DONE and states[row.turn_id] != RunState.FAILED:
            states[row.turn_id] = RunState.RUNNING.value
    return states


def _bench_state(row: Row[Any]) -> str:
    state = RunState(row.state)
    return (RunState.FAILED if is_interrupted(state, row.updated_at) else state).value


def _model(lane: LaneSpec) -> str | None:
    if lane.model:
        return lane.model.name
    return lane.endpoint.model if lane.endpoint else None
