"""Quality runs: written while they go on, read back as records."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import select

from core.access.guard import Action, authorise
from core.domain.history import MeasuredLane, RunKind
from core.domain.quality import QualityAnswer, QualityRecord, QualityRun
from core.domain.turns import ErrorInfo
from core.errors import StoreError
from core.i18n import N_
from core.store import records
from core.store.access import Access, listed, upsert
from core.store.runs.run_rows import RunTables
from core.store.tables import annotations, quality_answers, quality_lanes, quality_runs

QUALITY_INTERRUPTED = ErrorInfo(
    code="interrupted",
    message=N_("LMDyno exited before this quality run finished."),
    hint=N_("The results up to that point are kept. For the rest, run it again."),
)
_RUNS = RunTables(RunKind.QUALITY, quality_runs, quality_lanes, QUALITY_INTERRUPTED)


class QualityRuns(Access):
    """Quality runs in SQLite or PostgreSQL; every method but `close` raises StoreError.

    A run that whoever acts may not see (`core.access`) is as if it were not there.
    """

    def save(self, run: QualityRun, answers: Sequence[QualityAnswer] = ()) -> None:
        """Record how a run stands, and answers of it: new ones, or changed ones anew.

        Note and tag are not written here (`core.store.history`).
        """
        with self._writing() as connection:
            _RUNS.save(connection, run)
            upsert(connection, quality_answers, [_answer_values(run.id, answer) for answer in answers])

    def add(self, record: QualityRecord) -> None:
        """Take in a whole run, such as an imported one; raises AccessDenied and StoreError (`run-exists`)."""
        authorise(Action.IMPORT, f"{RunKind.QUALITY} {record.run.id}")
        with self._reading() as connection:
            is_here = _RUNS.is_here(connection, record.run.id)
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
            _RUNS.end_lost(connection, run_id, error)

    def run(self, run_id: str) -> QualityRun | None:
        """A run without its answers; None if there is none. Cheap."""
        with self._reading() as connection:
            return _RUNS.read(connection, run_id, QualityRun)

    def measured(self, names: Collection[str], *, limit: int = 100) -> tuple[MeasuredLane, ...]:
        """Lanes of these names in runs that have ended, the newest first; without deleted runs. Cheap."""
        with self._reading() as connection:
            return _RUNS.measured(connection, names, limit)

    def record(self, run_id: str) -> QualityRecord:
        """A run with all its facts; raises StoreError (`no-such-run`)."""
        with self._reading() as connection:
            run = _RUNS.read(connection, run_id, QualityRun)
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
            runs = [_RUNS.read(connection, run_id, QualityRun) for run_id in ids]
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
