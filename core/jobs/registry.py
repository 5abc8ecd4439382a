"""Background jobs of one LMDyno home: start, look at, cancel; and what is stored of each.

A job is a process of its own with a folder under `home/jobs/`; it goes on when a page is left, the dashboard
reloads or its starter dies, and every LMDyno process sees the same jobs. The folder holds `spec.json`
(written once), `state.json` (replaced atomically, so a reader never sees half of it), `log`, and `cancel`
once somebody asked for that. Facts are stored; elapsed and expected time are derived. The results are one
JSON file that is rewritten after every step, so a job that was stopped keeps what it had.

Whoever looks at a job that died sets its folder in order: the state is made final and half-written results
are deleted. The dashboard's `JobsWatch` looks at those that no page shows. Safe for several threads and
processes.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from core.access.guard import Action, authorise, for_workers, may_see
from core.codec import decode, encode
from core.domain.turns import ErrorInfo, new_id, utc_now
from core.errors import InputError, LMDynoError, StoreError
from core.files import write_atomically
from core.i18n import N_, Text
from core.settings import PROJECT_ROOT, Settings
from core.telemetry.processes import ProcessId, send_signal, send_signal_to_group

CANCELLED = N_("Cancelled")

_TAIL_BYTES = 64 * 1024
_TELLING_PROGRESS = 0.02
T = TypeVar("T")

log = logging.getLogger(__name__)

KILL_AFTER_S = 20.0
"""From the wish to cancel until a job that does not end by itself is killed by the next look at it."""
_START_S = 30.0
_POLL_S = 0.05
_WATCH_INTERVAL_S = 2.0


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


class Jobs:
    """The jobs of a home; cheap to make, keeps nothing in memory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._dir = settings.home / "jobs"
        self._locks_dir = settings.locks_dir

    def start(self, spec: JobSpec) -> str:
        """Start a job and return its id, once its process runs (within a second).

        Raises AccessDenied, and LMDynoError (`job-not-started`) if it doesn't.
        """
        identity = authorise(Action.START_JOB, f"{spec.kind}: {spec.title}")
        spec = replace(spec, owner=identity.owner, env={**spec.env, **for_workers(identity)})
        folder = JobFolder(self._dir / spec.id)
        folder.create(spec)
        with folder.log_file.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "core.jobs.runner", str(folder.path), str(self._locks_dir)],
                cwd=PROJECT_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        # It may end before this process does; nobody else would take its exit status.
        threading.Thread(target=process.wait, name=f"job-{spec.id}", daemon=True).start()
        deadline = time.monotonic() + _START_S
        while folder.read().runner is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise LMDynoError(
                    N_("The job couldn't start: {reason}", reason=folder.log_tail(1)),
                    hint=N_("See its log: {path}", path=folder.log_file),
                    code="job-not-started",
                )
            time.sleep(_POLL_S)
        log.info("job started id=%s kind=%s device=%s", spec.id, spec.kind, spec.device)
        return spec.id

    def start_module(
        self,
        kind: str,
        worker: str,
        arguments: Mapping[str, Any],
        *,
        title: Text,
        job_id: str | None = None,
        device: str | None = None,
        has_run: bool = False,
        already_running: Text | None = None,
        is_same: Callable[[JobSpec], bool] = lambda _spec: True,
    ) -> str:
        """Start a worker module of LMDyno, in this Python and for this home; return the job's id.

        `already_running`: the message of the InputError (`already-running`) that is raised while a job of the
        same kind for which `is_same` holds runs or waits. Otherwise raises as `start` does.
        """
        if already_running is not None:
            self._refuse_second(kind, already_running, is_same)
        return self.start(
            JobSpec(
                id=job_id or new_id(),
                kind=kind,
                title=title,
                worker=worker,
                arguments=dict(arguments),
                device=device,
                python=sys.executable,
                env={"LMDYNO_HOME": str(self._settings.home)},
                has_run=has_run,
            )
        )

    def status(self, job_id: str) -> JobStatus:
        """Return where a job stands now; raises InputError (`no-such-job`)."""
        folder = self._folder(job_id)
        return JobStatus(folder.spec(), self._settled(folder))

    def statuses(self, kind: str | None = None) -> tuple[JobStatus, ...]:
        """All jobs, newest first, those of earlier dashboards too; of one kind, if that is named.

        Everybody sees what runs or waits; of what has ended, what whoever acts may see in lists.
        """
        statuses = []
        for path in self._dir.glob("*/spec.json"):
            try:
                status = self.status(path.parent.name)
            except InputError as exc:
                log.warning("job folder skipped path=%s reason=%s", path.parent, exc.message)
                continue
            is_listed = not status.state.ended or may_see(status.spec.owner, by_link=False)
            if is_listed and kind in (None, status.spec.kind):
                statuses.append(status)
        return tuple(sorted(statuses, key=lambda status: status.spec.created_at, reverse=True))

    def log_tail(self, job_id: str, lines: int = 40) -> str:
        return self._folder(job_id).log_tail(lines)

    def cancel(self, job_id: str) -> None:
        """Ask a job to end; returns at once, no-op if it has ended.

        It has some seconds to end by itself; a job that does not is killed when somebody looks at its status.
        Raises AccessDenied.
        """
        folder = self._folder(job_id)
        record = self._settled(folder)
        if record.state.ended:
            return
        spec = folder.spec()
        authorise(Action.CANCEL_JOB, f"{spec.kind}: {spec.title}")
        folder.ask_to_cancel()
        if record.runner is not None:
            send_signal(record.runner, signal.SIGTERM)

    def forget(self, job_id: str) -> None:
        """Remove all that is kept of a job that has ended, its result's file too; no-op for unknown ids."""
        try:
            folder = self._folder(job_id)
            has_ended = self._settled(folder).state.ended
        except InputError:
            return
        if has_ended:
            shutil.rmtree(folder.path, ignore_errors=True)
            for file in self._settings.home.glob(f"*/{job_id}.json"):
                file.unlink(missing_ok=True)

    def wait(self, job_id: str, timeout_s: float) -> JobStatus:
        """The status when the job has ended, or when `timeout_s` have passed."""
        deadline = time.monotonic() + timeout_s
        while not (status := self.status(job_id)).state.ended and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return status

    def _refuse_second(self, kind: str, message: Text, is_same: Callable[[JobSpec], bool]) -> None:
        if any(not status.state.ended and is_same(status.spec) for status in self.statuses(kind)):
            raise InputError(message, hint=N_("Wait for it to finish, or stop it."), code="already-running")

    def _folder(self, job_id: str) -> JobFolder:
        path = self._dir / job_id
        if not job_id.isalnum() or not (path / "spec.json").is_file():
            raise InputError(N_("There is no job {id}.", id=job_id), code="no-such-job")
        return JobFolder(path)

    def _settled(self, folder: JobFolder) -> JobRecord:
        """The job's record, made final if its runner is gone without having done so."""
        record = folder.read()
        if record.state.ended or _lives(folder, record):
            return record
        record = folder.read()  # it may have ended properly between the two looks
        if record.state.ended:
            return record
        if record.worker is not None:
            send_signal_to_group(record.worker, signal.SIGKILL)
        spec = folder.spec()
        for scratch in spec.scratch:
            shutil.rmtree(scratch, ignore_errors=True)
        ended = _ended(folder, replace(record, finished_at=utc_now()))
        if spec.has_run:
            end_run(self._settings.database_url, spec.id, ended.error)
        folder.write(ended)
        return ended


def end_run(database_url: str, run_id: str, error: ErrorInfo | None) -> None:
    """End the stored run with that id, if it goes on; None is no error but a person's wish. Never raises."""
    # SQLAlchemy takes its time; most who look at jobs never need it.
    from core.store.runs import BenchRuns, QualityRuns

    for runs in (BenchRuns(database_url), QualityRuns(database_url)):
        try:
            with closing(runs):
                runs.end_lost(run_id, error)
        except StoreError as exc:
            log.warning("lost run not ended id=%s code=%s", run_id, exc.code)


def _lives(folder: JobFolder, record: JobRecord) -> bool:
    if record.runner is None:
        return (utc_now() - folder.spec().created_at).total_seconds() < _START_S
    if not record.runner.alive:
        return False
    asked_at = folder.cancel_asked_at()
    if asked_at is None or (utc_now() - asked_at).total_seconds() < KILL_AFTER_S:
        return True
    send_signal(record.runner, signal.SIGKILL)
    return False


def _ended(folder: JobFolder, record: JobRecord) -> JobRecord:
    if folder.cancel_asked_at() is not None:
        return replace(record, state=JobState.CANCELLED, stage=CANCELLED)
    error = ErrorInfo(
        code="job-died",
        message=N_("The job's processes were killed, or the machine restarted."),
        hint=N_("Start the job again."),
    )
    return replace(record, state=JobState.FAILED, error=error)


class JobsWatch:
    """A thread from `start` to `close`; the dashboard has one."""

    def __init__(self, settings: Settings) -> None:
        self._jobs = Jobs(settings)
        self._dir = settings.home / "jobs"
        self._closing = threading.Event()
        self._ended: set[str] = set()
        """Jobs that need no further look."""

    def start(self) -> None:
        threading.Thread(target=self._loop, name="jobs-watch", daemon=True).start()

    def close(self) -> None:
        self._closing.set()

    def look(self) -> None:
        """Look once; cheap for jobs that were seen to have ended."""
        for path in self._dir.glob("*/spec.json"):
            job_id = path.parent.name
            if job_id in self._ended:
                continue
            try:
                has_ended = self._jobs.status(job_id).state.ended
            except (InputError, OSError):
                has_ended = True  # no job of this version
            if has_ended:
                self._ended.add(job_id)

    def _loop(self) -> None:
        while not self._closing.wait(_WATCH_INTERVAL_S):
            try:
                self.look()
            except Exception:
                log.exception("jobs not looked at")
