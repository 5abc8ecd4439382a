"""Load tests and quality runs: written while they go on, read back as records."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from sqlalchemy import Connection, delete, func, select

from core.access.guard import Action, authorise
from core.domain.runs import (
    BenchPass,
    BenchRecord,
    BenchRequest,
    BenchRun,
    MeasuredLane,
    QualityAnswer,
    QualityRecord,
    QualityRun,
    RunKind,
    RunState,
)
from core.domain.specs import LaneSpec
from core.domain.turns import ErrorInfo
from core.errors import StoreError
from core.i18n import N_
from core.store import records
from core.store.access import Access, by_link, listed, upsert
from core.store.run_tables import RunTables
from core.store.tables import (
    annotations,
    bench_lanes,
    bench_passes,
    bench_requests,
    bench_runs,
    quality_answers,
    quality_lanes,
    quality_runs,
)

RUN_INTERRUPTED = ErrorInfo(
    code="interrupted",
    message=N_("LMDyno exited before this benchmark run finished."),
    hint=N_("The results up to that point are kept. For the rest, run it again."),
)
_RUNS_LOOKED_AT = 5
_TAKEN_AT_ONCE = 1000
_BENCH_RUNS = RunTables(RunKind.BENCH, bench_runs, bench_lanes, RUN_INTERRUPTED)


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
        with self._writing() as connection:
            _BENCH_RUNS.save(connection, run)
            upsert(
                connection,
                bench_passes,
                [
                    {"run_id": run.id, "number": bench_pass.number, "facts": bench_pass}
                    for bench_pass in passes
                ],
            )
            upsert(connection, bench_requests, [_request_values(run.id, request) for request in requests])

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
            is_here = _BENCH_RUNS.is_here(connection, run.id)
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

    def end_lost(self, run_id: str, error: ErrorInfo | None) -> None:
        """End a run whose process is gone, if it is said to go on; without an error it was stopped."""
        with self._writing() as connection:
            _BENCH_RUNS.end_lost(connection, run_id, error)

    def run(self, run_id: str) -> BenchRun | None:
        """A run without its passes and requests; None if there is none. Cheap."""
        with self._reading() as connection:
            return _BENCH_RUNS.read(connection, run_id, BenchRun)

    def measured(self, names: Collection[str], *, limit: int = 100) -> tuple[MeasuredLane, ...]:
        """Lanes of these names in runs that have ended, the newest first; without deleted runs. Cheap."""
        with self._reading() as connection:
            return _BENCH_RUNS.measured(connection, names, limit)

    def record(self, run_id: str) -> BenchRecord:
        """A run with all its facts; raises StoreError (`no-such-run`)."""
        with self._reading() as connection:
            run = _BENCH_RUNS.read(connection, run_id, BenchRun)
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
                    return tuple(records.record_of(BenchRequest, row) for row in rows)
        return ()

    def request_count(self, run_id: str) -> int:
        """Return how many requests are saved; tells cheaply whether there is anything new."""
        with self._reading() as connection:
            chosen = select(func.count()).where(bench_requests.c.run_id == run_id)
            return connection.scalar(chosen) or 0


def _is_visible(connection: Connection, run_id: str) -> bool:
    shown = select(bench_runs.c.id).where(bench_runs.c.id == run_id, by_link(bench_runs.c.owner))
    return connection.scalar(shown) is not None


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


def _read_passes(connection: Connection, run_id: str) -> tuple[BenchPass, ...]:
    passes = connection.scalars(
        select(bench_passes.c.facts).where(bench_passes.c.run_id == run_id).order_by(bench_passes.c.number)
    )
    return tuple(passes)


def _read_requests(connection: Connection, run_id: str, *, after: int) -> tuple[BenchRequest, ...]:
    rows = connection.execute(
        select(bench_requests)
        .where(bench_requests.c.run_id == run_id, bench_requests.c.number > after)
        .order_by(bench_requests.c.number)
    )
    return tuple(records.record_of(BenchRequest, row) for row in rows)


QUALITY_INTERRUPTED = ErrorInfo(
    code="interrupted",
    message=N_("LMDyno exited before this quality run finished."),
    hint=N_("The results up to that point are kept. For the rest, run it again."),
)
_QUALITY_RUNS = RunTables(RunKind.QUALITY, quality_runs, quality_lanes, QUALITY_INTERRUPTED)


class QualityRuns(Access):
    """Quality runs in SQLite or PostgreSQL; every method but `close` raises StoreError.

    A run that whoever acts may not see (`core.access`) is as if it were not there.
    """

    def save(self, run: QualityRun, answers: Sequence[QualityAnswer] = ()) -> None:
        """Record how a run stands, and answers of it: new ones, or changed ones anew.

        Note and tag are not written here (`core.store.history`).
        """
        with self._writing() as connection:
            _QUALITY_RUNS.save(connection, run)
            upsert(connection, quality_answers, [_answer_values(run.id, answer) for answer in answers])

    def add(self, record: QualityRecord) -> None:
        """Take in a whole run, such as an imported one; raises AccessDenied and StoreError (`run-exists`)."""
        authorise(Action.IMPORT, f"{RunKind.QUALITY} {record.run.id}")
        with self._reading() as connection:
            is_here = _QUALITY_RUNS.is_here(connection, record.run.id)
        if is_here:
            raise StoreError(
                N_("Quality run {run} already exists.", run=record.run.id),
                hint=N_("To see it, run `lmdyno runs show {run}`.", run=record.run.id),
                code="run-exists",
            )
        self.save(record.run, record.answers)

    def end_lost(self, run_id: str, error: ErrorInfo | None) -> None:
        """End a run whose process is gone, if it is said to go on; without an error it was stopped."""
        with self._writing() as connection:
            _QUALITY_RUNS.end_lost(connection, run_id, error)

    def run(self, run_id: str) -> QualityRun | None:
        """A run without its answers; None if there is none. Cheap."""
        with self._reading() as connection:
            return _QUALITY_RUNS.read(connection, run_id, QualityRun)

    def measured(self, names: Collection[str], *, limit: int = 100) -> tuple[MeasuredLane, ...]:
        """Lanes of these names in runs that have ended, the newest first; without deleted runs. Cheap."""
        with self._reading() as connection:
            return _QUALITY_RUNS.measured(connection, names, limit)

    def record(self, run_id: str) -> QualityRecord:
        """A run with all its facts; raises StoreError (`no-such-run`)."""
        with self._reading() as connection:
            run = _QUALITY_RUNS.read(connection, run_id, QualityRun)
            if run is None:
                raise StoreError(
                    N_("There is no quality run {run}.", run=run_id),
                    hint=N_("To list all runs, run `lmdyno runs list`."),
                    code="no-such-run",
                )
            rows = connection.execute(
                select(quality_answers)
                .where(quality_answers.c.run_id == run_id)
                .order_by(
                    quality_answers.c.lane,
                    quality_answers.c.part,
                    quality_answers.c.item,
                    quality_answers.c.repeat,
                )
            )
            return QualityRecord(
                run=run, answers=tuple(records.record_of(QualityAnswer, row) for row in rows)
            )

    def latest(self, limit: int = 20) -> tuple[QualityRun, ...]:
        """The newest runs that are not deleted, without their answers."""
        with self._reading() as connection:
            ids = connection.scalars(
                select(quality_runs.c.id)
                .outerjoin(
                    annotations,
                    (annotations.c.kind == RunKind.QUALITY) & (annotations.c.item_id == quality_runs.c.id),
                )
                .where(annotations.c.deleted_at.is_(None), listed(quality_runs.c.owner))
                .order_by(quality_runs.c.created_at.desc())
                .limit(limit)
            ).all()
            runs = [_QUALITY_RUNS.read(connection, run_id, QualityRun) for run_id in ids]
        return tuple(run for run in runs if run is not None)


def _answer_values(run_id: str, answer: QualityAnswer) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "lane": answer.lane,
        "part": answer.part,
        "item": answer.item,
        "repeat": answer.repeat,
        "prompt_tokens": answer.prompt_tokens,
        "finish_reason": answer.finish_reason,
        "error": answer.error,
        "token_ids": answer.token_ids,
        "timing": answer.timing,
        "text": answer.text,
    }
