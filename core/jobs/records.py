"""A background job's specification, state and results so far, as stored.

A job's folder holds `spec.json` (written once), `state.json` (replaced atomically, so a reader never sees
half of it), `log`, and `cancel` once somebody asked for that. Facts are stored; elapsed and expected time are
derived. The results are one JSON file that is rewritten after every step, so a job that was stopped keeps
what it had.
"""

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from core.codec import decode, encode
from core.domain.turns import ErrorInfo, new_id, utc_now
from core.errors import InputError
from core.files import write_atomically
from core.i18n import N_, Text
from core.telemetry.processes import ProcessId

CANCELLED = N_("Cancelled")

_TAIL_BYTES = 64 * 1024
_TELLING_PROGRESS = 0.02
T = TypeVar("T")


class JobState(StrEnum):
    QUEUED = "queued"
    """Waits for an earlier job on its device."""
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """A job to run. Its worker is a module that calls `core.jobs.worker.run`."""

    kind: str
    title: Text
    worker: str
    """Module that is started with `python -m`, in a process of its own."""
    arguments: dict[str, Any]
    """JSON values for the worker."""
    device: str | None = None
    """Jobs that name the same device run one after another."""
    python: str
    """Interpreter of the worker; it may belong to another environment than LMDyno's."""
    env: dict[str, str] = field(default_factory=dict)
    """Set in the worker's environment, over that of the job's starter."""
    owner: str | None = None
    """Who started it (`core.access`); None where there are no accounts."""
    has_run: bool = False
    """The job's results are a run of the same id in the store, to be ended with the job."""
    scratch: tuple[str, ...] = ()
    """Folders for half-written results: deleted when the job ends, however it ends."""
    id: str = field(default_factory=new_id)
    created_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job's state: the content of `state.json`."""

    state: JobState = JobState.QUEUED
    runner: ProcessId | None = None
    worker: ProcessId | None = None
    stage: Text = ""
    progress: float | None = None
    """0 to 1; None while it can't be told."""
    progress_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: ErrorInfo | None = None
    result: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job's specification and current state."""

    spec: JobSpec
    record: JobRecord

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def state(self) -> JobState:
        return self.record.state

    @property
    def elapsed_s(self) -> float | None:
        """Running time, without the wait for the device; None before it starts."""
        if self.record.started_at is None:
            return None
        end = self.record.finished_at or utc_now()
        return max(0.0, (end - self.record.started_at).total_seconds())

    @property
    def expected_s(self) -> float | None:
        """Time left at the pace so far; None while that is unknown, and after the end."""
        record = self.record
        if record.state is not JobState.RUNNING or not record.progress:
            return None
        if record.started_at is None or record.progress_at is None:
            return None
        if record.progress < _TELLING_PROGRESS:
            return None
        spent_s = (record.progress_at - record.started_at).total_seconds()
        since_s = (utc_now() - record.progress_at).total_seconds()
        return max(0.0, spent_s * (1 - record.progress) / record.progress - since_s)


@dataclass(frozen=True, slots=True)
class JobFolder:
    """The files of one job. Any process may read; only the job's runner writes its state while it lives."""

    path: Path

    @property
    def log_file(self) -> Path:
        return self.path / "log"

    def create(self, spec: JobSpec) -> None:
        self.path.mkdir(parents=True)
        self.write(JobRecord())
        # Last: a folder without a spec is no job yet.
        write_atomically(self.path / "spec.json", encode(spec))

    def spec(self) -> JobSpec:
        """Raises OSError or InputError for a folder that holds no job."""
        return decode(JobSpec, (self.path / "spec.json").read_bytes())

    def read(self) -> JobRecord:
        return decode(JobRecord, (self.path / "state.json").read_bytes())

    def write(self, record: JobRecord) -> None:
        write_atomically(self.path / "state.json", encode(record))

    def ask_to_cancel(self) -> None:
        (self.path / "cancel").touch()

    def cancel_asked_at(self) -> datetime | None:
        try:
            return datetime.fromtimestamp((self.path / "cancel").stat().st_mtime, UTC)
        except FileNotFoundError:
            return None

    def log_tail(self, lines: int) -> str:
        """The last lines of the log; of long logs only what the last 64 KiB hold."""
        try:
            with self.log_file.open("rb") as stream:
                stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL_BYTES))
                text = stream.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def save_outcome(file: Path, outcome: object) -> None:
    """Replace the stored outcome atomically."""
    write_atomically(file, encode(outcome))


def load_outcome(kind: type[T], file: Path) -> T | None:
    """The outcome so far; None before its first step. Raises InputError (`bad-record`)."""
    try:
        return decode(kind, file.read_bytes())
    except FileNotFoundError:
        return None


def outcome_file(folder: Path, job_id: str, kind: str) -> Path:
    """The job's file in the folder; raises InputError for what can't be a job's id, such as a path."""
    if not job_id.isalnum():
        raise InputError(N_("There is no result {id}.", id=job_id), code=f"no-such-{kind}")
    return folder / f"{job_id}.json"
