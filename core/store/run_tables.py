"""Tables of runs: what benchmark and quality runs have in common, and runs that are stored whole.

Stored whole, once they have ended, are walks with their steps, quizzes and memory sweeps.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, select, update

from core.access.guard import current_identity
from core.codec import encode
from core.domain.runs import BenchRun, LaneFacts, MeasuredLane, QualityLane, QualityRun, RunKind, RunState
from core.domain.specs import LaneSpec
from core.domain.turns import ErrorInfo, Machine, utc_now
from core.domain.walk import WalkRun
from core.i18n import Text
from core.store import records
from core.store.access import Access, by_link, insert_new, listed, upsert
from core.store.tables import (
    annotations,
    lanes,
    machines,
    quiz_lanes,
    quizzes,
    sweep_lanes,
    sweeps,
    walk_lanes,
    walks,
)

Run = TypeVar("Run", BenchRun, QualityRun)

_SILENT_S = 60.0
"""Whoever measures saves more often than this (`core.bench.run.recording`, `core.quality.job`)."""

_TABLES: Mapping[RunKind, tuple[Table, Table]] = {
    RunKind.QUIZ: (quizzes, quiz_lanes),
    RunKind.SWEEP: (sweeps, sweep_lanes),
}


@dataclass(frozen=True, slots=True)
class RunTables:
    """The tables of one kind of run, and the error of a run whose process was lost."""

    kind: RunKind
    runs: Table
    lanes: Table
    interrupted: ErrorInfo

    def save(self, connection: Connection, run: BenchRun | QualityRun) -> None:
        """Record how a run stands, with its lanes and its machine."""
        insert_new(connection, machines, records.machine_rows(run.machine))
        insert_new(connection, lanes, records.lane_rows(facts.lane for facts in run.lanes))
        upsert(connection, self.runs, [_run_values(run)])
        upsert(connection, self.lanes, _lane_values(run.id, run.lanes))

    def is_here(self, connection: Connection, run_id: str) -> bool:
        """Whether there is such a run, visible or not."""
        return connection.scalar(select(self.runs.c.id).where(self.runs.c.id == run_id)) is not None

    def end_lost(self, connection: Connection, run_id: str, error: ErrorInfo | None) -> None:
        """End a run whose process is gone, if it is said to go on; without an error it was stopped."""
        now = utc_now()
        state = RunState.STOPPED if error is None else RunState.FAILED
        connection.execute(
            update(self.runs)
            .where(self.runs.c.id == run_id, self.runs.c.state == RunState.RUNNING)
            .values(state=state, error=error, updated_at=now, finished_at=now)
        )

    def read(self, connection: Connection, run_id: str, kind: type[Run]) -> Run | None:
        """A run as it stands; None if there is none that whoever acts may see."""
        row = connection.execute(
            select(self.runs, machines.c.facts, annotations.c.note, annotations.c.tag)
            .outerjoin(machines, machines.c.id == self.runs.c.machine_id)
            .outerjoin(
                annotations, (annotations.c.kind == self.kind) & (annotations.c.item_id == self.runs.c.id)
            )
            .where(self.runs.c.id == run_id, by_link(self.runs.c.owner))
        ).first()
        if row is None:
            return None
        lane_facts = connection.scalars(
            select(self.lanes.c.facts).where(self.lanes.c.run_id == run_id).order_by(self.lanes.c.position)
        ).all()
        is_lost = is_interrupted(row.state, row.updated_at)
        return kind(
            id=row.id,
            created_at=row.created_at,
            state=RunState.FAILED if is_lost else row.state,
            title=row.title,
            plan=row.plan,
            lmdyno=row.lmdyno,
            machine=row.facts,
            lanes=tuple(lane_facts),
            finished_at=row.updated_at if is_lost else row.finished_at,
            error=self.interrupted if is_lost else row.error,
            imported=row.imported,
            note=row.note or "",
            tag=row.tag or "",
        )

    def measured(
        self, connection: Connection, names: Collection[str], limit: int
    ) -> tuple[MeasuredLane, ...]:
        """Lanes of these names in runs that have ended and that lists show, the newest first.

        Lanes that could not take part are left out.
        """
        rows = connection.execute(
            select(
                self.runs.c.id,
                self.runs.c.created_at,
                self.runs.c.plan,
                self.lanes.c.facts.label("lane_facts"),
                machines.c.facts.label("machine"),
            )
            .join(self.lanes, self.lanes.c.run_id == self.runs.c.id)
            .join(lanes, lanes.c.id == self.lanes.c.lane_id)
            .outerjoin(machines, machines.c.id == self.runs.c.machine_id)
            .outerjoin(
                annotations, (annotations.c.kind == self.kind) & (annotations.c.item_id == self.runs.c.id)
            )
            .where(
                lanes.c.name.in_(list(names)),
                self.runs.c.state.in_((RunState.DONE, RunState.STOPPED)),
                annotations.c.deleted_at.is_(None),
                listed(self.runs.c.owner),
            )
            .order_by(self.runs.c.created_at.desc(), self.lanes.c.position)
            .limit(limit)
        )
        return tuple(
            MeasuredLane(
                run_id=row.id,
                measured_at=row.created_at,
                plan=row.plan,
                lane=row.lane_facts.lane,
                engine_version=row.lane_facts.engine_version,
                machine=row.machine,
            )
            for row in rows
            if row.lane_facts.error is None
        )


def save_with_lanes(
    connection: Connection,
    tables: tuple[Table, Table],
    values: Mapping[str, Any],
    machine: Machine | None,
    took_part: Sequence[LaneSpec],
) -> None:
    """Record a run that ended, in its table and its lanes' table, with the machine and the lanes."""
    runs, run_lanes = tables
    insert_new(connection, machines, records.machine_rows(machine))
    insert_new(connection, lanes, records.lane_rows(took_part))
    upsert(connection, runs, [values])
    rows = [
        {"run_id": values["id"], "position": position, "lane_id": records.digest(lane)}
        for position, lane in enumerate(took_part)
    ]
    upsert(connection, run_lanes, rows)


def is_interrupted(state: RunState, updated_at: datetime) -> bool:
    """Whether a run that is said to be running has not been saved for too long."""
    return state is RunState.RUNNING and utc_now() - updated_at > timedelta(seconds=_SILENT_S)


def _run_values(run: BenchRun | QualityRun) -> dict[str, Any]:
    return {
        "id": run.id,
        "created_at": run.created_at,
        "updated_at": utc_now(),
        "finished_at": run.finished_at,
        "state": run.state,
        "title": run.title,
        "lmdyno": run.lmdyno,
        "machine_id": records.digest(run.machine) if run.machine else None,
        "imported": run.imported,
        "error": run.error,
        "plan": run.plan,
        "owner": current_identity().owner,
    }


def _lane_values(run_id: str, lane_facts: Sequence[LaneFacts | QualityLane]) -> list[Mapping[str, Any]]:
    return [
        {"run_id": run_id, "position": position, "lane_id": records.digest(facts.lane), "facts": facts}
        for position, facts in enumerate(lane_facts)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """A job's result, with what a list shows of it."""

    kind: RunKind
    """QUIZ or SWEEP."""
    id: str
    created_at: datetime
    state: RunState
    title: Text
    lanes: tuple[LaneSpec, ...]
    machine: Machine | None
    facts: str
    """The run as JSON; its kind's own code reads it."""


class JobResults(Access):
    """Results in SQLite or PostgreSQL; every method but `close` raises StoreError.

    A result that whoever acts may not see (`core.access`) is as if it were not there.
    """

    def save(self, result: JobResult) -> None:
        """Keep a result in place of an earlier state of it; its note and tag are the history's."""
        runs, run_lanes = _TABLES[result.kind]
        values = {
            "id": result.id,
            "created_at": result.created_at,
            "updated_at": utc_now(),
            "state": result.state,
            "title": result.title,
            "machine_id": records.digest(result.machine) if result.machine else None,
            "facts": result.facts,
            "owner": current_identity().owner,
        }
        with self._writing() as connection:
            save_with_lanes(connection, (runs, run_lanes), values, result.machine, result.lanes)

    def facts(self, kind: RunKind, result_id: str) -> str | None:
        """A result as JSON; None if there is none."""
        runs, _run_lanes = _TABLES[kind]
        with self._reading() as connection:
            facts: str | None = connection.scalar(
                select(runs.c.facts).where(runs.c.id == result_id, by_link(runs.c.owner))
            )
        return facts


def keep_run(
    database_url: str,
    run: object,
    *,
    kind: RunKind,
    run_id: str,
    created_at: datetime,
    is_whole: bool,
    title: Text,
    lanes: Sequence[LaneSpec],
    machine: Machine | None,
) -> None:
    """Put a run that ended into the history, as JSON; if not whole, as a stopped one. Raises StoreError."""
    with closing(JobResults(database_url)) as results:
        results.save(
            JobResult(
                kind=kind,
                id=run_id,
                created_at=created_at,
                state=RunState.DONE if is_whole else RunState.STOPPED,
                title=title,
                lanes=tuple(lanes),
                machine=machine,
                facts=encode(run).decode(),
            )
        )


class Walks(Access):
    """Walks in SQLite or PostgreSQL; every method but `close` raises StoreError.

    A walk that whoever acts may not see (`core.access`) is as if it were not there.
    """

    def save(self, run: WalkRun) -> None:
        """Keep a walk in place of an earlier state of it; its note and tag are the history's."""
        values = {
            "id": run.id,
            "created_at": run.created_at,
            "updated_at": utc_now(),
            "state": run.state,
            "title": run.title,
            "machine_id": records.digest(run.machine) if run.machine else None,
            "facts": run,
            "owner": current_identity().owner,
        }
        with self._writing() as connection:
            save_with_lanes(connection, (walks, walk_lanes), values, run.machine, run.lanes)

    def run(self, walk_id: str) -> WalkRun | None:
        """A walk; None if there is none."""
        with self._reading() as connection:
            run: WalkRun | None = connection.scalar(
                select(walks.c.facts).where(walks.c.id == walk_id, by_link(walks.c.owner))
            )
        return run
