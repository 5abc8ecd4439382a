"""Load tests: written while they run, read back as records."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Row, delete, func, select

from core.access.guard import Action, authorise, current_identity
from core.domain.bench import BenchPass, BenchRecord, BenchRequest, BenchRun, RunState
from core.domain.history import RunKind
from core.domain.specs import LaneSpec
from core.domain.turns import ErrorInfo, utc_now
from core.errors import StoreError
from core.i18n import N_
from core.store import records
from core.store.access import Access, insert_new, upsert
from core.store.tables import (
    annotations,
    bench_lanes,
    bench_passes,
    bench_requests,
    bench_runs,
    lanes,
    machines,
)
from core.store.visibility import by_link

RUN_INTERRUPTED = ErrorInfo(
    code="interrupted",
    message=N_("LMDyno exited before this benchmark run finished."),
    hint=N_("The results up to that point are kept. For the rest, run it again."),
)
_RUNS_LOOKED_AT = 5
_TAKEN_AT_ONCE = 1000
_SILENT_S = 60.0
"""A running benchmark saves more often than this (`core.bench.run.recording`)."""


class BenchRuns(Access):
    """Load tests in SQLite or PostgreSQL; every method but `close` raises StoreError.

    A run that whoever acts may not see (`core.access`) is as if it were not there.
    """

    def save(
        self, run: BenchRun, passes: Sequence[BenchPass] = (), requests: Sequence[BenchRequest] = ()
    ) -> None:
        """Record how a run stands, and passes and requests of it: new ones, or changed ones anew.

        Note and tag are not written here (`core.store.history`).
        """
        now = utc_now()
        with self._writing() as connection:
            insert_new(connection, machines, records.machine_rows(run.machine))
            insert_new(connection, lanes, records.lane_rows(facts.lane for facts in run.lanes))
            upsert(connection, bench_runs, [_run_values(run, now)])
            upsert(connection, bench_lanes, _lane_values(run))
            upsert(
                connection,
                bench_passes,
                [{"run_id": run.id, "number": each.number, "facts": each} for each in passes],
            )
            upsert(connection, bench_requests, [_request_values(run.id, each) for each in requests])

    def add(self, record: BenchRecord) -> None:
        """Take in a whole run; see `take_in`."""
        self.take_in(record.run, record.passes, record.requests)

    def take_in(self, run: BenchRun, passes: Sequence[BenchPass], requests: Iterable[BenchRequest]) -> None:
        """Take in a whole run, such as an imported one, or nothing of it; requests are read as they go in.

        Its note and tag are not taken: they are the history's. Raises AccessDenied, StoreError
        (`run-exists`), and what reading the requests raises.
        """
        authorise(Action.IMPORT, f"{RunKind.BENCH} {run.id}")
        with self._reading() as connection:
            is_here = connection.scalar(select(bench_runs.c.id).where(bench_runs.c.id == run.id))
        if is_here:
            raise StoreError(
                N_("Benchmark run {id} already exists.", id=run.id),
                hint=N_("To see it, run `lmdyno runs show {id}`.", id=run.id),
                code="run-exists",
            )
        # In several transactions, since other programs have to write meanwhile. Until the last one the run
        # counts as one that goes on, and as one that ended if this program does.
        self.save(replace(run, state=RunState.RUNNING, finished_at=None), passes)
        try:
            left = iter(requests)
            while some := list(islice(left, _TAKEN_AT_ONCE)):
                self.save(replace(run, state=RunState.RUNNING, finished_at=None), requests=some)
        except BaseException:
            with self._writing() as connection:
                connection.execute(delete(bench_runs).where(bench_runs.c.id == run.id))
            raise
        self.save(run)

    def run(self, run_id: str) -> BenchRun | None:
        """A run without its passes and requests; None if there is none. Cheap."""
        with self._reading() as connection:
            return _read_run(connection, run_id)

    def record(self, run_id: str) -> BenchRecord:
        """A run with all its facts; raises StoreError (`no-such-run`)."""
        with self._reading() as connection:
            run = _read_run(connection, run_id)
            if run is None:
                raise StoreError(
                    N_("There is no benchmark run {id}.", id=run_id),
                    hint=N_("To list all runs, run `lmdyno runs list`."),
                    code="no-such-run",
                )
            return BenchRecord(
                run=run,
                passes=_read_passes(connection, run_id),
                requests=_read_requests(connection, run_id, after=-1),
            )

    def passes(self, run_id: str) -> tuple[BenchPass, ...]:
        """The passes so far, in their order."""
        with self._reading() as connection:
            return _read_passes(connection, run_id) if _is_visible(connection, run_id) else ()

    def requests(self, run_id: str, *, after: int = -1) -> tuple[BenchRequest, ...]:
        """The requests with a number above `after`, by number.

        They are saved as they end, so of a run that goes on, smaller numbers may still come.
        """
        with self._reading() as connection:
            if not _is_visible(connection, run_id):
                return ()
            return _read_requests(connection, run_id, after=after)

    def first_requests(self, lane: LaneSpec, *, limit: int = 20) -> tuple[BenchRequest, ...]:
        """The first answered requests of this very lane, settings and all, in the newest run that has any.

        They were measured at the lowest load of that run.
        """
        took_part = (
            select(bench_runs.c.id)
            .join(bench_lanes, bench_lanes.c.run_id == bench_runs.c.id)
            .where(bench_lanes.c.lane_id == records.digest(lane))
            .order_by(bench_runs.c.created_at.desc())
            .limit(_RUNS_LOOKED_AT)
        )
        with self._reading() as connection:
            for run_id in connection.scalars(took_part).all():
                rows = connection.execute(
                    select(bench_requests)
                    .where(
                        bench_requests.c.run_id == run_id,
                        bench_requests.c.lane == lane.name,
                        bench_requests.c.warmup.is_(False),
                        bench_requests.c.error.is_(None),
                    )
                    .order_by(bench_requests.c.number)
                    .limit(limit)
                ).all()
                if rows:
                    return tuple(_to_request(row) for row in rows)
        return ()

    def request_count(self, run_id: str) -> int:
        """How many requests are saved; tells cheaply whether there is anything new."""
        with self._reading() as connection:
            chosen = select(func.count()).where(bench_requests.c.run_id == run_id)
            return connection.scalar(chosen) or 0


def _is_visible(connection: Connection, run_id: str) -> bool:
    shown = select(bench_runs.c.id).where(bench_runs.c.id == run_id, by_link(bench_runs.c.owner))
    return connection.scalar(shown) is not None


def _run_values(run: BenchRun, now: datetime) -> dict[str, Any]:
    return {
        "id": run.id,
        "created_at": run.created_at,
        "updated_at": now,
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


def _lane_values(run: BenchRun) -> list[Mapping[str, Any]]:
    return [
        {"run_id": run.id, "position": position, "lane_id": records.digest(facts.lane), "facts": facts}
        for position, facts in enumerate(run.lanes)
    ]


def _request_values(run_id: str, request: BenchRequest) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "number": request.number,
        "pass_number": request.pass_number,
        "lane": request.lane,
        "warmup": request.warmup,
        "planned_ns": request.planned_ns,
        "prompt_tokens": request.prompt_tokens,
        "cached_tokens": request.cached_tokens,
        "finish_reason": request.finish_reason,
        "error": request.error,
        "timing": request.timing,
    }


def _read_run(connection: Connection, run_id: str) -> BenchRun | None:
    row = connection.execute(
        select(bench_runs, machines.c.facts, annotations.c.note, annotations.c.tag)
        .outerjoin(machines, machines.c.id == bench_runs.c.machine_id)
        .outerjoin(
            annotations,
            (annotations.c.kind == RunKind.BENCH) & (annotations.c.item_id == bench_runs.c.id),
        )
        .where(bench_runs.c.id == run_id, by_link(bench_runs.c.owner))
    ).first()
    if row is None:
        return None
    served = connection.scalars(
        select(bench_lanes.c.facts).where(bench_lanes.c.run_id == run_id).order_by(bench_lanes.c.position)
    ).all()
    run = BenchRun(
        id=row.id,
        created_at=row.created_at,
        state=row.state,
        title=row.title,
        plan=row.plan,
        lmdyno=row.lmdyno,
        machine=row.facts,
        lanes=tuple(served),
        finished_at=row.finished_at,
        error=row.error,
        imported=row.imported,
        note=row.note or "",
        tag=row.tag or "",
    )
    if is_interrupted(row.state, row.updated_at):
        return replace(run, state=RunState.FAILED, finished_at=row.updated_at, error=RUN_INTERRUPTED)
    return run


def is_interrupted(state: RunState, updated_at: datetime) -> bool:
    """Whether a run that is said to go on has not been heard of for too long."""
    return state is RunState.RUNNING and utc_now() - updated_at > timedelta(seconds=_SILENT_S)


def _read_passes(connection: Connection, run_id: str) -> tuple[BenchPass, ...]:
    found = connection.scalars(
        select(bench_passes.c.facts).where(bench_passes.c.run_id == run_id).order_by(bench_passes.c.number)
    )
    return tuple(found)


def _read_requests(connection: Connection, run_id: str, *, after: int) -> tuple[BenchRequest, ...]:
    rows = connection.execute(
        select(bench_requests)
        .where(bench_requests.c.run_id == run_id, bench_requests.c.number > after)
        .order_by(bench_requests.c.number)
    )
    return tuple(_to_request(row) for row in rows)


def _to_request(row: Row[Any]) -> BenchRequest:
    return BenchRequest(
        number=row.number,
        pass_number=row.pass_number,
        lane=row.lane,
        warmup=row.warmup,
        planned_ns=row.planned_ns,
        timing=row.timing,
        prompt_tokens=row.prompt_tokens,
        cached_tokens=row.cached_tokens,
        finish_reason=row.finish_reason,
        error=row.error,
    )
