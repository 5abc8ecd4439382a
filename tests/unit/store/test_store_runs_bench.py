from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from core.domain.runs import (
    BenchPass,
    BenchRecord,
    BenchRequest,
    BenchRun,
    EngineQueue,
    EngineUse,
    GpuUse,
    LaneFacts,
    LoadLevel,
    RunState,
)
from core.domain.timing import Timing
from core.domain.turns import ErrorInfo, FinishReason, utc_now
from core.errors import StoreError
from core.store.runs import RUN_INTERRUPTED, BenchRuns
from core.store.tables import bench_runs
from tests.unit.store.store_samples import HF, MACHINE, REMOTE

RUN = BenchRun(
    id="r1",
    created_at=datetime(2026, 3, 1, 12, 30, 0, 5, tzinfo=UTC),
    state=RunState.RUNNING,
    title="quick look",
    plan='{"seed": 1}',
    lmdyno="0.1.0",
    machine=MACHINE,
    lanes=(
        LaneFacts(lane=HF, engine_version="transformers 5", device="cpu", weight_bytes=7, prompts="8 words"),
        LaneFacts(lane=REMOTE, error=ErrorInfo("engine-crashed", "It died", "Start it")),
    ),
)
PASS = BenchPass(
    number=0,
    repeat=0,
    lanes=("hf", "remote"),
    level=LoadLevel(concurrency=4),
    started_at=datetime(2026, 3, 1, 12, 31, tzinfo=UTC),
    start_ns=2**45,
    end_ns=2**45 + 9,
    gpus=(GpuUse(index=1, name="H100", energy_j=5.5, peak_used_bytes=2**36),),
    engines=(EngineUse(lane="hf", peak_resident_bytes=2**33),),
    queues=(EngineQueue(lane="hf", total_s=0.25, requests=3),),
)
REQUESTS = (
    BenchRequest(number=0, pass_number=0, lane="hf", warmup=True),
    BenchRequest(
        number=1,
        pass_number=0,
        lane="hf",
        planned_ns=2**45,
        timing=Timing(sent_ns=2**45, chunk_ns=(2**45 + 5,), content_chars=(3,), output_tokens=1),
        prompt_tokens=9,
        cached_tokens=2,
        finish_reason=FinishReason.LENGTH,
    ),
    BenchRequest(
        number=2,
        pass_number=0,
        lane="remote",
        finish_reason=FinishReason.ERROR,
        error=ErrorInfo("engine-busy", "No", "Wait"),
    ),
)


@pytest.fixture
def runs(database_url):
    runs = BenchRuns(database_url)
    yield runs
    runs.close()


def test_a_run_comes_back_as_it_was_saved(runs):
    runs.save(RUN, [PASS], REQUESTS)
    assert runs.record("r1") == BenchRecord(run=RUN, passes=(PASS,), requests=REQUESTS)
    assert runs.run("r1") == RUN
    assert runs.passes("r1") == (PASS,)


def test_saving_again_replaces_what_changed_and_adds_what_is_new(runs):
    runs.save(RUN, [replace(PASS, end_ns=None)], REQUESTS[:1])
    done = replace(RUN, state=RunState.DONE, finished_at=datetime(2026, 3, 1, 13, tzinfo=UTC))
    runs.save(done, [PASS], REQUESTS[1:])
    assert runs.record("r1") == BenchRecord(run=done, passes=(PASS,), requests=REQUESTS)


def test_new_requests_are_read_without_the_old_ones(runs):
    runs.save(RUN, [PASS], REQUESTS)
    assert runs.requests("r1", after=0) == REQUESTS[1:]
    assert runs.request_count("r1") == 3
    assert runs.request_count("nobody") == 0


def test_a_run_that_is_not_there(runs):
    assert runs.run("nobody") is None
    with pytest.raises(StoreError) as raised:
        runs.record("nobody")
    assert raised.value.code == "no-such-run"


def test_a_run_is_taken_in_once(runs):
    record = BenchRecord(run=replace(RUN, state=RunState.DONE, imported=True), requests=REQUESTS)
    runs.add(record)
    assert runs.record("r1") == record
    with pytest.raises(StoreError) as raised:
        runs.add(record)
    assert raised.value.code == "run-exists"


def test_a_run_that_is_not_heard_of_any_more_was_interrupted(runs):
    runs.save(RUN)
    with runs._writing() as connection:
        connection.execute(update(bench_runs).values(updated_at=utc_now() - timedelta(minutes=5)))
    found = runs.run("r1")
    assert (found.state, found.error) == (RunState.FAILED, RUN_INTERRUPTED)
    runs.save(RUN)
    assert runs.run("r1").state is RunState.RUNNING


def test_runs_share_lanes_and_machines(runs):
    runs.save(RUN)
    runs.save(replace(RUN, id="r2"))
    assert runs.run("r2").lanes == RUN.lanes


def test_the_first_answers_of_this_very_lane_in_its_newest_run(runs):
    later = replace(RUN, id="r2", created_at=RUN.created_at + timedelta(days=1))
    failed = replace(RUN, id="r3", created_at=RUN.created_at + timedelta(days=2))
    runs.save(RUN, [PASS], REQUESTS)
    runs.save(later, [PASS], [*REQUESTS, replace(REQUESTS[1], number=3), replace(REQUESTS[1], number=4)])
    runs.save(failed, [PASS], [replace(REQUESTS[2], lane="hf")])
    assert [request.number for request in runs.first_requests(HF, limit=2)] == [1, 3]
    assert runs.first_requests(REMOTE) == ()
    assert runs.first_requests(replace(HF, settings=replace(HF.settings, dtype="float32"))) == ()


def test_a_lost_run_is_ended_and_one_that_ended_is_left_alone(runs):
    killed = ErrorInfo("job-killed", "Somebody killed the job", "Start it again")
    runs.save(RUN)
    runs.end_lost("r1", killed)
    run = runs.run("r1")
    assert (run.state, run.error, run.finished_at is not None) == (RunState.FAILED, killed, True)
    runs.end_lost("r1", None)
    assert runs.run("r1") == run
    runs.end_lost("nobody", killed)


def test_a_lost_run_that_was_to_stop_has_stopped(runs):
    runs.save(RUN)
    runs.end_lost("r1", None)
    assert (runs.run("r1").state, runs.run("r1").error) == (RunState.STOPPED, None)


def test_the_lanes_of_ended_runs_are_told_the_newest_first(runs):
    for number, state in enumerate((RunState.DONE, RunState.STOPPED, RunState.RUNNING, RunState.FAILED)):
        changes = {"id": f"r{number}", "state": state, "created_at": RUN.created_at + timedelta(hours=number)}
        runs.save(replace(RUN, **changes))
    newest, oldest = runs.measured(["hf", "remote"])
    assert (newest.run_id, oldest.run_id) == ("r1", "r0")
    assert (newest.lane, newest.engine_version, newest.machine) == (HF, "transformers 5", MACHINE)
    assert newest.plan == RUN.plan


def test_lanes_of_other_names_and_those_that_could_not_take_part_are_left_out(runs):
    runs.save(replace(RUN, state=RunState.DONE))
    assert runs.measured(["remote", "awq"]) == ()
    assert [measured.lane for measured in runs.measured(["hf"])] == [HF]
