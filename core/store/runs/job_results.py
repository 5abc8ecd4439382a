"""Runs that are stored whole once they have ended: walks with their steps, quizzes and memory sweeps."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Table, select

from core.access.guard import current_identity
from core.codec import encode
from core.domain.bench import RunState
from core.domain.history import RunKind
from core.domain.specs import LaneSpec
from core.domain.turns import Machine, utc_now
from core.domain.walk import WalkRun
from core.i18n import Text
from core.store import records
from core.store.access import Access, by_link
from core.store.runs.run_rows import save_with_lanes
from core.store.tables import quiz_lanes, quizzes, sweep_lanes, sweeps, walk_lanes, walks

_TABLES: Mapping[RunKind, tuple[Table, Table]] = {
    RunKind.QUIZ: (quizzes, quiz_lanes),
    RunKind.SWEEP: (sweeps, sweep_lanes),
}


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
