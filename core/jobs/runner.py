"""What outlives the process of a job or of a measurement, and ends properly what that could not.

A job's runner, `python -m core.jobs.runner FOLDER LOCKS`, waits for the job's device, starts the worker,
keeps `state.json` up to date, and ends and explains the worker whatever happens to it. It outlives whoever
started it, and loads nothing heavy itself. SIGTERM cancels the job. The kernel's count of such kills tells
whether a worker was killed because memory ran out.

A worker that was killed leaves its run in the store as one that goes on. The runner ends the run, with the
reason, through `python -m core.jobs.runner --end RUN`, since it loads no database library itself. A command
that measures without a job has this process beside it. The reason comes through stdin, as JSON, and counts
when stdin ends.
"""

import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from core import process_setup
from core.codec import decode, encode
from core.domain.turns import ErrorInfo, utc_now
from core.i18n import N_, from_json
from core.jobs.registry import CANCELLED, JobFolder, JobRecord, JobState, end_run
from core.settings import PROJECT_ROOT, load_settings
from core.telemetry.processes import identify, this_process

log = logging.getLogger(__name__)

_SHOWN_CHARS = 450
GRACE_S = 8
"""From the polite request to a worker to end until it is killed."""
_POLL_S = 0.2
_FAREWELL_S = 5.0
_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
_WHOLE_MACHINE = Path("/proc/vmstat")
_END = "--end"
_PATIENCE_S = 20.0
"""For the process that ends a run; one that goes on counts as interrupted a minute after its last sign."""


class Runner:
    """Runs the job of one folder; the record is written by one thread at a time."""

    def __init__(self, folder: JobFolder, locks_dir: Path) -> None:
        self._folder = folder
        self._spec = folder.spec()
        self._locks_dir = locks_dir
        self._record = JobRecord(runner=this_process())
        self._worker: subprocess.Popen[bytes] | None = None
        self._cancelled = False
        self._kills_before = out_of_memory_kills()

    def run(self) -> None:
        signal.signal(signal.SIGTERM, self._on_cancel)
        signal.signal(signal.SIGALRM, self._on_grace_over)
        self._update(stage=N_("Waiting for {device}", device=self._spec.device) if self._spec.device else "")
        with self._device() as lock:
            if not self._cancelled:
                self._update(state=JobState.RUNNING, started_at=utc_now(), stage=N_("Starting"))
                self._work(lock)
        signal.alarm(0)
        for folder in self._spec.scratch:
            shutil.rmtree(folder, ignore_errors=True)
        ending = self._ending()
        if self._spec.has_run and self._record.result is None and self._record.error is None:
            # The worker said nothing, so it can't have ended its run. Before the job counts as ended: whoever
            # then looks at the run sees how that ended too.
            end_run_in_process(self._spec.id, ending["error"], {**os.environ, **self._spec.env})
        self._update(finished_at=utc_now(), **ending)

    @contextmanager
    def _device(self) -> Iterator[int | None]:
        """Hold the device's lock; yields its file, or None without a device and when cancelled before."""
        if self._spec.device is None:
            yield None
            return
        self._locks_dir.mkdir(parents=True, exist_ok=True)
        with (self._locks_dir / f"job-{self._spec.device}.lock").open("a") as file:
            while not self._cancelled:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(_POLL_S)
            yield None if self._cancelled else file.fileno()

    def _work(self, lock: int | None) -> None:
        messages, writer = os.pipe()
        try:
            worker = self._start(writer, lock)
        except OSError as exc:
            os.close(messages)
            self._update(
                error=ErrorInfo(
                    code="job-not-started",
                    message=N_("The job couldn't start: {reason}", reason=exc),
                    hint=N_("Check that {path} is a Python interpreter.", path=self._spec.python),
                )
            )
            return
        finally:
            os.close(writer)
        self._worker = worker
        if self._cancelled:  # SIGTERM came while it was being started
            self._end_worker(signal.SIGTERM)
        self._update(worker=identify(worker.pid))
        reader = threading.Thread(
            target=self._read, args=(os.fdopen(messages, encoding="utf-8"),), daemon=True
        )
        reader.start()
        # Not reaped yet: its number, which is its group's too, can't mean another process below.
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
        self._end_worker(signal.SIGKILL)
        worker.wait()
        reader.join(_FAREWELL_S)

    def _start(self, writer: int, lock: int | None) -> subprocess.Popen[bytes]:
        # With the lock's file the device stays locked until the worker is gone too, should this process
        # be killed.
        kept = (writer,) if lock is None else (writer, lock)
        with self._folder.log_file.open("ab") as log:
            return subprocess.Popen(
                [self._spec.python, "-m", self._spec.worker, str(self._folder.path), str(writer)],
                cwd=PROJECT_ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self._spec.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
                pass_fds=kept,
            )

    def _read(self, messages: TextIO) -> None:
        with messages:
            for line in messages:
                self._take(json.loads(line))

    def _take(self, message: dict[str, object]) -> None:
        if "stage" in message:
            message["stage"] = from_json(message["stage"])
            message["progress_at"] = None if message["progress"] is None else utc_now()
        elif isinstance(error := message.get("error"), dict):
            message["error"] = ErrorInfo(
                code=error["code"], message=from_json(error["message"]), hint=from_json(error["hint"])
            )
        self._update(**message)

    def _ending(self) -> dict[str, Any]:
        """The last changes to the record, by what the worker said and how it ended."""
        if self._record.result is not None:
            return {"state": JobState.DONE, "progress": 1.0, "stage": N_("Done")}
        if self._cancelled:
            return {"state": JobState.CANCELLED, "stage": CANCELLED, "error": None}
        error = self._record.error or self._unexplained()
        return {"state": JobState.FAILED, "error": error}

    def _unexplained(self) -> ErrorInfo:
        code = self._worker.returncode if self._worker else None
        last_line = self._folder.log_tail(1)
        if code == -signal.SIGKILL:
            return self._killed()
        if code and code < 0:
            message = N_(
                "The job ended with signal {signal}: {line}",
                signal=signal.Signals(-code).name,
                line=last_line[:_SHOWN_CHARS],
            )
        else:
            message = N_(
                "The job ended with exit code {code}: {line}", code=code, line=last_line[:_SHOWN_CHARS]
            )
        return ErrorInfo(code="job-crashed", message=message, hint=N_("See the job's log for details."))

    def _killed(self) -> ErrorInfo:
        kills = out_of_memory_kills()
        if kills is not None and self._kills_before is not None and kills > self._kills_before:
            return ErrorInfo(
                code="job-out-of-memory",
                message=N_("The system killed the job because memory ran out."),
                hint=N_("Free some memory, or choose smaller settings."),
            )
        if kills is not None:
            return ErrorInfo(
                code="job-killed",
                message=N_("Somebody killed the job (SIGKILL)."),
                hint=N_("Memory didn't run out. Start the job again."),
            )
        return ErrorInfo(
            code="job-killed",
            message=N_("The system or somebody killed the job (SIGKILL)."),
            hint=N_("If memory was short, free some, or choose smaller settings. Then start the job again."),
        )

    def _update(self, **changes: object) -> None:
        self._record = replace(self._record, **changes)  # type: ignore[arg-type]
        self._folder.write(self._record)

    def _on_cancel(self, _signal: int, _frame: FrameType | None) -> None:
        self._cancelled = True
        self._end_worker(signal.SIGTERM)
        signal.alarm(GRACE_S)

    def _on_grace_over(self, _signal: int, _frame: FrameType | None) -> None:
        self._end_worker(signal.SIGKILL)

    def _end_worker(self, how: signal.Signals) -> None:
        """Signal the worker's whole group, while the worker is not reaped."""
        if self._worker is not None and self._worker.returncode is None:
            try:
                os.killpg(self._worker.pid, how)
            except ProcessLookupError:
                return


def out_of_memory_kills(
    *, cgroup: Path = _CGROUP, cgroups: Path = _CGROUPS, whole_machine: Path = _WHOLE_MACHINE
) -> int | None:
    """Return how many processes the kernel has killed for want of memory; None where it doesn't tell.

    Counted are those of this process's control group, which its children share; without one, all of the
    machine's.
    """
    try:
        path = cgroup.read_text().partition("0::/")[2].partition("\n")[0]
        count = _counter(cgroups / path / "memory.events")
    except OSError:
        count = None
    return _counter(whole_machine) if count is None else count


def _counter(file: Path) -> int | None:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return None


def end_run_in_process(run_id: str, error: ErrorInfo | None, environment: Mapping[str, str]) -> None:
    """As `core.jobs.registry.end_run`, in a process of its own with the settings of that environment."""
    try:
        subprocess.run(
            [sys.executable, "-m", "core.jobs.runner", _END, run_id],
            cwd=PROJECT_ROOT,
            env=environment,
            input=encode(error),
            timeout=_PATIENCE_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        log.warning("lost run not ended id=%s reason=%s", run_id, exc)


@contextmanager
def ended_if_killed(run_id: str, error: ErrorInfo) -> Iterator[None]:
    """Within this a run is ended in the store, with the error, as soon as this process is killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "core.jobs.runner", _END, run_id],
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        # Ctrl-C in the terminal is for this process alone.
        start_new_session=True,
    )
    assert process.stdin is not None
    try:
        with suppress(BrokenPipeError):  # it ended at once; the run counts as interrupted a minute later
            process.stdin.write(encode(error))
            process.stdin.flush()
        yield
    finally:
        process.kill()
        process.wait()
        process.stdin.close()


def main(arguments: list[str]) -> int:
    if arguments[0] == _END:
        process_setup.configure_logs()
        reason = sys.stdin.buffer.read()
        error = None if reason == encode(None) else decode(ErrorInfo, reason)
        end_run(load_settings().database_url, arguments[1], error)
        return 0
    folder, locks_dir = map(Path, arguments)
    Runner(JobFolder(folder), locks_dir).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
