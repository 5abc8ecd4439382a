"""Load tests as jobs: processes of their own, against a scripted server."""

import os
import signal
import time

import pytest

from core.bench.plan import PromptKind, Workload
from core.bench.results.result import results
from core.bench.run.job import (
    bench_status,
    running_benches,
    start_bench,
    stop_bench,
)
from core.domain.runs import RunState
from core.errors import InputError
from core.jobs.registry import Jobs, JobState
from core.store.runs import BenchRuns
from tests.unit.bench.bench_samples import HF, a_plan, remote

QUICK = Workload(prompt_tokens=16, output_tokens=1000)


@pytest.fixture
def runs(settings):
    runs = BenchRuns(settings.database_url)
    yield runs
    runs.close()


def wait_for(condition, timeout_s=40.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def test_a_run_goes_on_in_a_process_of_its_own(settings, server, runs):
    lane = remote("a", server.url, chunks=5, interval_s=0.02)
    plan = a_plan(lane, workload=QUICK, requests=3, title="by a job")
    run_id = start_bench(settings, plan, gpu=False)
    assert run_id == plan.id
    status = Jobs(settings).wait(run_id, 60)
    assert (status.state, status.record.result) == (JobState.DONE, {"run_id": run_id, "state": "done"})
    record = runs.record(run_id)
    assert (record.run.state, record.run.title) == (RunState.DONE, "by a job")
    assert record.run.machine is not None
    assert results(record).points[0].requests.ok == 3


def test_stopping_a_run_keeps_what_it_has(settings, server, runs):
    lane = remote("a", server.url, chunks=20, interval_s=0.02)
    plan = a_plan(lane, workload=QUICK, requests=None, seconds=300, warmup=0)
    start_bench(settings, plan, gpu=False)
    wait_for(lambda: runs.run(plan.id) is not None and runs.request_count(plan.id) > 1)
    assert [status.id for status in running_benches(settings)] == [plan.id]
    live = results(runs.record(plan.id))
    assert live.run.state is RunState.RUNNING
    assert live.points[0].requests.ok > 1
    stop_bench(settings, plan.id)
    status = Jobs(settings).wait(plan.id, 30)
    assert status.state is JobState.CANCELLED
    result = results(runs.record(plan.id))
    assert result.run.state is RunState.STOPPED
    assert result.points[0].requests.ok > 1
    assert running_benches(settings) == ()


@pytest.mark.parametrize(
    ("victims", "code"),
    [(("worker",), "job-killed"), (("runner",), "job-died"), (("runner", "worker"), "job-died")],
)
def test_a_run_whose_processes_were_killed_says_so(settings, server, runs, victims, code):
    lane = remote("a", server.url, chunks=20, interval_s=0.02)
    plan = a_plan(lane, workload=QUICK, requests=None, seconds=300, warmup=0)
    start_bench(settings, plan, gpu=False)
    wait_for(lambda: runs.run(plan.id) is not None and runs.request_count(plan.id) > 1)
    record = bench_status(settings, plan.id).record
    for victim in victims:
        os.kill(getattr(record, victim).pid, signal.SIGKILL)
    wait_for(lambda: bench_status(settings, plan.id).state is JobState.FAILED)
    run = runs.run(plan.id)
    assert (run.state, run.error.code) == (RunState.FAILED, code)
    assert bench_status(settings, plan.id).record.error.code == code
    assert run.finished_at is not None
    assert runs.request_count(plan.id) > 1
    wait_for(lambda: not record.worker.alive)
    assert runs.run(plan.id).error.code == code


def test_a_run_whose_runner_was_killed_ends_though_nobody_looks(settings, server, runs):
    lane = remote("a", server.url, chunks=20, interval_s=0.02)
    plan = a_plan(lane, workload=QUICK, requests=None, seconds=300, warmup=0)
    start_bench(settings, plan, gpu=False)
    wait_for(lambda: runs.run(plan.id) is not None and runs.request_count(plan.id) > 1)
    os.kill(bench_status(settings, plan.id).record.runner.pid, signal.SIGKILL)
    wait_for(lambda: runs.run(plan.id).state is RunState.FAILED)
    assert runs.run(plan.id).error.code == "job-died"


def test_two_runs_on_one_device_come_one_after_the_other(settings, server, runs):
    lane = remote("a", server.url, chunks=20, interval_s=0.05)
    first, second = (a_plan(lane, workload=QUICK, requests=1, warmup=0) for _ in range(2))
    for plan in (first, second):
        start_bench(settings, plan, gpu=False)
    wait_for(lambda: bench_status(settings, first.id).state is JobState.RUNNING)
    assert bench_status(settings, second.id).state is JobState.QUEUED
    assert Jobs(settings).wait(second.id, 60).state is JobState.DONE
    assert runs.run(first.id).finished_at <= runs.passes(second.id)[0].started_at


def test_a_lane_that_can_not_start_fails_the_job_with_its_reason(settings, runs):
    plan = a_plan(HF, workload=QUICK, requests=1)
    start_bench(settings, plan, gpu=False)
    status = Jobs(settings).wait(plan.id, 60)
    assert status.state is JobState.FAILED
    assert status.record.error.code == runs.record(plan.id).run.error.code
    assert runs.record(plan.id).run.state is RunState.FAILED


def test_a_prompt_file_is_checked_before_anything_starts(settings, tmp_path):
    workload = Workload(prompts=PromptKind.TEXT, path=str(tmp_path / "missing.txt"))
    with pytest.raises(InputError):
        start_bench(settings, a_plan(workload=workload), gpu=False)
    assert Jobs(settings).statuses() == ()
