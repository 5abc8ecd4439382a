"""Jobs, and the files in which they keep what they are, do and have found."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from core.domain.turns import utc_now
from core.errors import InputError
from core.jobs import registry
from core.jobs.registry import (
    JobFolder,
    JobRecord,
    Jobs,
    JobSpec,
    JobState,
    JobStatus,
    JobsWatch,
    load_outcome,
    outcome_file,
    save_outcome,
)
from core.settings import PROJECT_ROOT, Settings
from core.telemetry.processes import ProcessId, identify

END_S = 30
NEVER = "/no/such/file"


@dataclass(frozen=True, slots=True)
class Found:
    steps: tuple[int, ...]


def test_the_newest_state_is_read_and_nothing_else_left(tmp_path):
    file = outcome_file(tmp_path / "runs", "abc1", "run")
    assert load_outcome(Found, file) is None
    save_outcome(file, Found((1,)))
    save_outcome(file, Found((1, 2)))
    assert load_outcome(Found, file) == Found((1, 2))
    assert [path.name for path in file.parent.iterdir()] == ["abc1.json"]


def test_a_file_of_another_shape_is_said(tmp_path):
    file = outcome_file(tmp_path, "abc1", "run")
    file.write_text('{"steps": "many"}')
    with pytest.raises(InputError, match="steps") as caught:
        load_outcome(Found, file)
    assert caught.value.code == "bad-record"


@pytest.mark.parametrize("job_id", ["../secret", "a/b", "", "a.b"])
def test_an_id_that_is_a_path_is_refused(tmp_path, job_id):
    with pytest.raises(InputError) as caught:
        outcome_file(tmp_path, job_id, "run")
    assert caught.value.code == "no-such-run"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, lanes_file=tmp_path / "lanes.toml", database_url="sqlite://")


@pytest.fixture
def jobs(settings: Settings) -> Jobs:
    return Jobs(settings)


def spec(*, device: str | None = None, scratch: Path | None = None, **arguments: object) -> JobSpec:
    here = str(Path(__file__).parent)
    return JobSpec(
        kind="test",
        title="a test",
        worker="jobs_test_worker",
        arguments={**arguments, **({"scratch": str(scratch)} if scratch else {})},
        device=device,
        python=sys.executable,
        env={"PYTHONPATH": f"{here}{os.pathsep}{PROJECT_ROOT}"},
        scratch=(str(scratch),) if scratch else (),
    )


def until(condition, what: str) -> None:
    deadline = time.monotonic() + END_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.02)


def running(jobs: Jobs, job_id: str) -> JobStatus:
    until(lambda: jobs.status(job_id).record.stage == "counting", "the work")
    return jobs.status(job_id)


def test_a_job_reports_and_hands_in_its_result(jobs: Jobs, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    job_id = jobs.start(spec(progress=0.25, until_there=str(go_on)))
    status = running(jobs, job_id)
    assert (status.state, status.record.progress) == (JobState.RUNNING, 0.25)
    assert status.record.started_at is not None

    go_on.touch()
    status = jobs.wait(job_id, END_S)

    assert (status.state, status.record.progress) == (JobState.DONE, 1.0)
    assert status.record.result == {"answer": 42}
    assert status.record.error is None
    assert status.expected_s is None
    assert "a line for the log" in jobs.log_tail(job_id)


def test_the_workers_error_is_the_jobs_error(jobs: Jobs, tmp_path: Path) -> None:
    scratch = tmp_path / "half"
    status = jobs.wait(jobs.start(spec(ends="input-error", scratch=scratch)), END_S)

    assert status.state is JobState.FAILED
    assert status.record.error is not None
    assert (status.record.error.code, status.record.error.hint) == ("too-little", "Give more.")
    assert not scratch.exists()


def test_a_defect_names_its_last_line_and_keeps_the_traceback(jobs: Jobs) -> None:
    job_id = jobs.start(spec(ends="defect"))
    error = jobs.wait(job_id, END_S).record.error

    assert error is not None
    assert error.code == "job-crashed"
    assert "ZeroDivisionError: by hand" in error.message
    assert "Traceback" in jobs.log_tail(job_id)


def test_a_killed_worker_is_told_from_one_that_fails(jobs: Jobs) -> None:
    error = jobs.wait(jobs.start(spec(ends="killed")), END_S).record.error

    assert error is not None
    assert error.code == "job-killed"


def test_a_worker_whose_runner_was_killed_ends_at_its_next_report(jobs: Jobs, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    job_id = jobs.start(spec(until_there=str(go_on), reports_after=True, words=str(tmp_path / "words")))
    record = running(jobs, job_id).record
    assert record.runner is not None
    assert record.worker is not None
    os.kill(record.runner.pid, signal.SIGKILL)
    # Reaped, not only a zombie: its main thread is one while another thread still holds the pipe open.
    until(lambda: identify(record.runner.pid) is None, "the end of the runner")
    go_on.touch()
    until(lambda: not record.worker.alive, "the end of the worker")
    assert (tmp_path / "words").read_text() == "job-died"


def test_a_python_that_is_none_is_told(jobs: Jobs) -> None:
    error = jobs.wait(jobs.start(replace(spec(), python="/no/such/python")), END_S).record.error

    assert error is not None
    assert error.code == "job-not-started"
    assert "/no/such/python" in error.message


@pytest.mark.parametrize("ignores_sigterm", [False, True])
def test_cancel_ends_the_worker_with_its_children_and_removes_the_scratch(
    jobs: Jobs, tmp_path: Path, ignores_sigterm: bool
) -> None:
    scratch = tmp_path / "half"
    job_id = jobs.start(
        spec(until_there=NEVER, has_child=True, ignores_sigterm=ignores_sigterm, scratch=scratch)
    )
    worker = running(jobs, job_id).record.worker
    assert worker is not None
    assert scratch.is_dir()
    children = [int(p) for p in Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()]
    child = identify(children[0])

    jobs.cancel(job_id)
    status = jobs.wait(job_id, END_S)

    assert (status.state, status.record.error) == (JobState.CANCELLED, None)
    assert not worker.alive
    assert child is not None
    until(lambda: not child.alive, "the end of the worker's child")
    assert not scratch.exists()
    jobs.cancel(job_id)  # no-op


def test_jobs_on_one_device_run_one_after_another(jobs: Jobs, tmp_path: Path) -> None:
    out, go_on = tmp_path / "order", tmp_path / "go-on"
    first = jobs.start(spec(device="gpu0", append_to=str(out), word="1", until_there=str(go_on)))
    running(jobs, first)
    second = jobs.start(spec(device="gpu0", append_to=str(out), word="2"))
    other = jobs.start(spec(device="gpu1"))

    status = jobs.status(second)
    assert (status.state, status.elapsed_s) == (JobState.QUEUED, None)
    assert jobs.wait(other, END_S).state is JobState.DONE
    assert jobs.status(second).state is JobState.QUEUED
    go_on.touch()
    assert jobs.wait(second, END_S).state is JobState.DONE
    assert out.read_text().split("\n")[:-1] == ["start 1", "end 1", "start 2", "end 2"]


def test_a_waiting_job_can_be_cancelled(jobs: Jobs, tmp_path: Path) -> None:
    first = jobs.start(spec(device="gpu0", until_there=NEVER))
    running(jobs, first)
    second = jobs.start(spec(device="gpu0", append_to=str(tmp_path / "x"), word="2"))
    jobs.cancel(second)

    assert jobs.wait(second, END_S).state is JobState.CANCELLED
    assert jobs.status(first).state is JobState.RUNNING
    assert not (tmp_path / "x").exists()
    jobs.cancel(first)
    assert jobs.wait(first, END_S).state is JobState.CANCELLED


def test_a_job_outlives_its_starter(jobs: Jobs, settings: Settings) -> None:
    program = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]);"
        "import test_jobs_registry as t;"
        "from core.jobs.registry import Jobs; from core.settings import Settings;"
        "h = pathlib.Path(sys.argv[2]);"
        "s = Settings(home=h, lanes_file=h, database_url='sqlite://');"
        "sys.stdout.write(Jobs(s).start(t.spec(until_there=sys.argv[3])))"
    )
    here, go_on = str(Path(__file__).parent), settings.home / "go-on"
    started = subprocess.run(
        [sys.executable, "-c", program, here, str(settings.home), str(go_on)],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    job_id = started.stdout

    assert [status.id for status in jobs.statuses("test")] == [job_id]
    assert jobs.statuses("another kind") == ()
    assert running(jobs, job_id).state is JobState.RUNNING
    go_on.touch()
    assert jobs.wait(job_id, END_S).record.result == {"answer": 42}


def test_a_job_whose_runner_was_killed_is_set_in_order(jobs: Jobs, tmp_path: Path) -> None:
    scratch = tmp_path / "half"
    job_id = jobs.start(spec(until_there=NEVER, scratch=scratch))
    record = running(jobs, job_id).record
    assert record.runner is not None
    assert record.worker is not None
    os.kill(record.runner.pid, signal.SIGKILL)
    until(lambda: not record.runner.alive, "the end of the runner")

    (status,) = jobs.statuses()

    assert status.state is JobState.FAILED
    assert status.record.error is not None
    assert status.record.error.code == "job-died"
    until(lambda: not record.worker.alive, "the end of the worker")
    assert not scratch.exists()


def test_a_job_that_does_not_end_when_asked_is_killed_later(
    jobs: Jobs, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "KILL_AFTER_S", END_S * 10)
    stubborn = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
            "sys.stdout.write('x'); sys.stdout.flush(); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
    )
    assert stubborn.stdout is not None
    assert stubborn.stdout.read(1) == b"x"
    stubborn.stdout.close()
    job = spec()
    folder = JobFolder(settings.home / "jobs" / job.id)
    folder.create(job)
    folder.write(JobRecord(state=JobState.RUNNING, runner=identify(stubborn.pid)))

    jobs.cancel(job.id)
    assert jobs.status(job.id).state is JobState.RUNNING
    monkeypatch.setattr(registry, "KILL_AFTER_S", 0.0)
    until(lambda: jobs.status(job.id).state is JobState.CANCELLED, "the end by force")
    assert stubborn.wait(END_S) == -signal.SIGKILL


def test_a_process_that_got_the_number_since_is_left_alone(jobs: Jobs, settings: Settings) -> None:
    foreign = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        job = spec()
        folder = JobFolder(settings.home / "jobs" / job.id)
        folder.create(job)
        old = ProcessId(foreign.pid, time.time() - 5000)
        folder.write(JobRecord(state=JobState.RUNNING, runner=old, worker=old))

        jobs.cancel(job.id)

        assert jobs.status(job.id).state is JobState.FAILED
        assert foreign.poll() is None
    finally:
        foreign.kill()
        foreign.wait()


def test_unknown_and_broken_jobs(jobs: Jobs, settings: Settings) -> None:
    for name in ("nosuchjob", "../x"):
        with pytest.raises(InputError) as caught:
            jobs.status(name)
        assert caught.value.code == "no-such-job"
    broken = settings.home / "jobs" / "broken"
    broken.mkdir(parents=True)
    (broken / "spec.json").write_text("{")
    assert jobs.statuses() == ()


@pytest.mark.parametrize(
    ("progress", "expected_s"), [(None, None), (0.0, None), (0.01, None), (0.25, 30.0), (0.5, 10.0)]
)
def test_the_expected_time_follows_the_pace(progress: float | None, expected_s: float | None) -> None:
    now = utc_now()
    record = JobRecord(
        state=JobState.RUNNING,
        started_at=now - timedelta(seconds=10),
        progress=progress,
        progress_at=now if progress is not None else None,
    )
    status = JobStatus(spec(), record)

    assert status.expected_s == pytest.approx(expected_s, abs=0.5)
    assert status.elapsed_s == pytest.approx(10, abs=0.5)


@pytest.fixture
def folder(settings):
    spec = JobSpec(
        kind="test",
        title="a test",
        worker="x",
        arguments={},
        python="python",
        created_at=utc_now() - timedelta(hours=1),
    )
    folder = JobFolder(settings.home / "jobs" / spec.id)
    folder.create(spec)
    return folder


def test_a_job_whose_runner_is_gone_is_ended_by_a_look(settings, folder):
    folder.write(JobRecord(state=JobState.RUNNING, runner=ProcessId(2**22 + 1, 1.0)))
    JobsWatch(settings).look()
    assert (folder.read().state, folder.read().error.code) == (JobState.FAILED, "job-died")


def test_jobs_that_have_ended_are_read_once(settings, folder):
    folder.write(JobRecord(state=JobState.DONE))
    watch = JobsWatch(settings)
    watch.look()
    (folder.path / "state.json").unlink()
    watch.look()


def test_a_folder_that_holds_no_job_is_skipped(settings, folder):
    (folder.path / "spec.json").write_text("{")
    JobsWatch(settings).look()
