"""Whole runs against a server with known timings.

Figures are held against plain arithmetic on the client's own timestamps, exactly, and these timestamps
against the server's: never before it, and not long after, since the machine is shared.
"""

import asyncio
import time
from dataclasses import replace
from itertools import pairwise
from statistics import median

import pytest

from core.bench.plan import Arrivals, Isolation, Limits, Load, LoadKind, SendFrom, Workload
from core.bench.results.points import QueueTime
from core.bench.results.result import results
from core.bench.run import recording
from core.bench.run.runner import new_run
from core.chat_api.client import Timeouts
from core.domain.runs import EngineQueue, EngineUse, RunState
from core.domain.turns import FinishReason, Place
from core.engines.requests import Unfinished
from core.errors import EngineError, StoreError
from core.meter.devices import DeviceQueue
from core.reports.run_json import point_json
from tests.expected_figures import Answer, figures_of, spread
from tests.timed_http import Stream, Whole
from tests.unit.bench.bench_samples import HF, NS, A, a_plan, remote
from tests.unit.bench.bench_stand_ins import Bench

QUICK = Workload(prompt_tokens=16, output_tokens=1000)
JITTER_S = (0.001, 0.05, 0.004, 0.03, 0.002, 0.02, 0.06)
CLOCKS_APART_NS = 5_000_000
"""Arrivals are timestamped by the kernel's wall clock, which may be corrected meanwhile."""


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def measured(record):
    """The requests that count, in the order of sending."""
    requests = (request for request in record.requests if not request.warmup)
    return sorted(requests, key=lambda request: request.timing.sent_ns)


def asked(server, *, warmup=0):
    """What the server saw of them, in the order of arrival; asking for one token only is calibration."""
    seen = (each for each in server.seen if each.body["max_tokens"] > 1)
    return sorted(seen, key=lambda each: each.received_ns)[warmup:]


def answers(starts_and_chunks_ns, **shape):
    return [
        Answer(chunks_s=[(timestamp_ns - start_ns) / NS for timestamp_ns in chunk_ns], **shape)
        for start_ns, chunk_ns in starts_and_chunks_ns
    ]


def by_client(requests, **shape):
    return answers(((each.timing.sent_ns, each.timing.chunk_ns) for each in requests), **shape)


def by_server(seen, **shape):
    return answers(((each.received_ns, each.chunk_ns) for each in seen), **shape)


def assert_figures(point, expected, **tolerance):
    """That a point has these figures, values and number of values; exactly, unless there is a tolerance."""
    found = point_json(point)
    for name, values in expected.items():
        if values is None:
            assert found[name] is None, name
        else:
            assert found[name]["n"] == values["n"], name
            assert {key: found[name][key] for key in values} == pytest.approx(values, **tolerance), name


@pytest.mark.parametrize(
    ("dialect", "tokens"),
    [("lmdeploy", 1), ("lmdeploy", 3), ("generic", 1), ("transformers", 1), ("transformers", 3)],
)
def test_every_figure_is_what_its_definition_says(bench, server, dialect, tokens):
    lane = remote(
        "a",
        server.url,
        dialect=dialect,
        chunks=15,
        tokens_per_chunk=tokens,
        first_chunk_s=0.1,
        gaps_s=JITTER_S,
    )
    load = Load(concurrencies=(2,))
    record = bench.run(a_plan(lane, workload=QUICK, load=load, requests=4, warmup=1))
    (point,) = results(record).points
    shape = {"tokens_per_chunk": tokens, "names_tokens": dialect == "lmdeploy"}
    assert_figures(point, figures_of(by_client(measured(record), **shape)))
    window_s = (max(each.timing.ended_ns for each in measured(record)) - record.passes[0].start_ns) / NS
    assert (point.requests.ok, point.requests.failed, point.output_tokens) == (4, 0, 60 * tokens)
    assert point.duration_s == pytest.approx(window_s)
    assert point.system_tok_per_s == pytest.approx(60 * tokens / window_s)
    assert point.req_per_s == pytest.approx(4 / window_s)
    assert record.run.state is RunState.DONE
    assert len(record.requests) == 5


def test_timestamps_are_those_of_what_the_server_did(bench, server):
    lane = remote("a", server.url, dialect="lmdeploy", chunks=15, first_chunk_s=0.1, gaps_s=JITTER_S)
    record = bench.run(a_plan(lane, workload=QUICK, requests=4, warmup=1))
    requests, seen = measured(record), asked(server, warmup=1)
    for request, each in zip(requests, seen, strict=True):
        timing = request.timing
        assert timing.sent_ns <= each.received_ns + CLOCKS_APART_NS
        assert all(w <= a for w, a in zip(each.chunk_ns, timing.chunk_ns, strict=True))
        assert each.ended_ns <= timing.ended_ns
    # However busy the machine is: half of the chunks are not a tenth of a second on their way.
    lateness_ns = [
        arrived - written
        for request, each in zip(requests, seen, strict=True)
        for arrived, written in zip(request.timing.chunk_ns, each.chunk_ns, strict=True)
    ]
    assert median(lateness_ns) < 0.1 * NS
    (point,) = results(record).points
    assert point.ttft_s.low >= 0.1 - CLOCKS_APART_NS / NS  # the server writes nothing before it is due
    assert_figures(point, {"ttft_s": figures_of(by_server(seen))["ttft_s"]}, abs=0.1)


@pytest.mark.parametrize("streams", [32, 256])
def test_many_streams_at_once_agree_with_what_the_server_wrote(bench, server, streams):
    bench.timeouts = Timeouts()  # on a busy machine 256 streams get late
    # Nothing ends before even a busy machine has sent them all.
    lane = remote("a", server.url, dialect="lmdeploy", chunks=10, first_chunk_s=streams / 50, interval_s=0.1)
    plan = a_plan(lane, workload=QUICK, load=Load(concurrencies=(streams,)), requests=streams, warmup=0)
    record = bench.run(plan)
    (point,) = results(record).points
    assert (point.requests.ok, point.output_tokens) == (streams, 10 * streams)
    assert_figures(point, figures_of(by_client(measured(record), names_tokens=True)))
    served = figures_of(by_server(asked(server), names_tokens=True))
    assert point.tpot_s.mean == pytest.approx(served["tpot_s"]["mean"], rel=0.5)
    sent = [request.timing.sent_ns for request in record.requests]
    ended = [request.timing.chunk_ns[-1] for request in record.requests]
    assert max(sent) < min(ended)  # really all at once


def test_a_stall_is_in_the_tail_of_the_gaps_and_is_no_failure(bench, server):
    stall = (*[0.005] * 5, 0.2, *[0.005] * 5)
    lane = remote("a", server.url, dialect="lmdeploy", chunks=12, gaps_s=stall)
    record = bench.run(a_plan(lane, workload=QUICK, requests=3, warmup=0))
    (point,) = results(record).points
    assert (point.requests.ok, point.requests.failed) == (3, 0)
    assert_figures(point, figures_of(by_client(measured(record), names_tokens=True)))
    assert point.itl_s.p50 < 0.1 < point.itl_s.high


def test_failures_are_counted_by_cause_and_never_averaged_in(bench, server):
    late = {"first_chunk_s": 0.3}
    turns = (
        {},
        {"status": 503, "error": "full"},
        {**late, "error_after": 4, "error": "no luck"},
        {**late, "cut_after": 4},
    )
    lane = remote("a", server.url, *turns, dialect="lmdeploy", chunks=8, first_chunk_s=0.05, interval_s=0.01)
    limits = Limits(ttft_s=0.25)
    plan = a_plan(lane, workload=QUICK, load=Load(concurrencies=(4,)), requests=12, warmup=0, limits=limits)
    record = bench.run(plan)
    (point,) = results(record).points
    assert point.requests.ok == 3
    assert point.requests.by_code == {"engine-busy": 3, "endpoint-refused": 3, "connection-lost": 3}
    whole = [request for request in measured(record) if len(request.timing.chunk_ns) == 8]
    assert_figures(point, figures_of(by_client(whole, names_tokens=True)))
    assert (point.output_tokens, point.goodput_ratio) == (24, 0.25)
    assert point.req_per_s == pytest.approx(3 / point.duration_s)


def test_failures_are_counted_by_their_cause(bench, server):
    shown = {"chunks": 10, "interval_s": 0.01}
    lanes = {
        "connection-lost": remote("cut", server.url, cut_after=3, **shown),
        "endpoint-refused": remote("error", server.url, error_after=3, error="no luck", **shown),
        "stall-timeout": remote("stall", server.url, stall_after=3, **shown),
        "engine-busy": remote("busy", server.url, status=503, error="full"),
    }
    good = remote("good", server.url, **shown)
    result = results(bench.run(a_plan(*lanes.values(), good, workload=QUICK, requests=2, warmup=0)))
    by_lane = {point.lane: point.requests for point in result.points}
    for code, lane in lanes.items():
        assert (by_lane[lane.name].ok, by_lane[lane.name].by_code) == (0, {code: 2})
    assert (by_lane["good"].ok, by_lane["good"].failed) == (2, 0)
    assert result.failed == 8


def test_what_arrived_of_a_failed_answer_is_kept(bench, server):
    lane = remote("a", server.url, chunks=10, interval_s=0.01, cut_after=3)
    record = bench.run(a_plan(lane, workload=QUICK, requests=1, warmup=0))
    assert len(record.requests[0].timing.chunk_ns) == 3
    assert record.requests[0].finish_reason is FinishReason.ERROR


def test_a_lane_that_only_fails_is_left_alone_after_a_while(bench, server):
    lane = remote("a", server.url, status=500, error="broken")
    record = bench.run(a_plan(lane, workload=QUICK, requests=None, seconds=60, warmup=0))
    (point,) = results(record).points
    assert 20 <= point.requests.failed < 40


def test_one_lanes_failure_is_its_own(bench, server):
    good, bad = remote("good", server.url, chunks=3), remote("bad", server.url, chunks=3)
    bench.engines.failing = {"bad"}
    record = bench.run(a_plan(bad, good, workload=QUICK, requests=2))
    facts = {each.lane.name: each for each in record.run.lanes}
    assert record.run.state is RunState.DONE
    assert facts["bad"].error.code == "engine-crashed"
    assert facts["good"].engine_version == "script 1"
    assert [point.lane for point in results(record).points] == ["good"]
    assert results(record).failed == 1


def test_a_run_without_any_lane_left_has_failed(bench, server):
    bench.engines.failing = {"a"}
    record = bench.run(a_plan(remote("a", server.url), workload=QUICK))
    assert (record.run.state, record.run.error.code) == (RunState.FAILED, "engine-crashed")


def test_an_open_loop_keeps_its_schedule_while_the_engine_lags(bench, server):
    # Each answer takes longer than 20 gaps of the schedule.
    lane = remote("a", server.url, chunks=2, first_chunk_s=1.0)
    load = Load(kind=LoadKind.OPEN, rates_req_per_s=(20.0,))
    record = bench.run(a_plan(lane, workload=QUICK, load=load, requests=40, warmup=0))
    (point,) = results(record).points
    assert point.requests.ok == 40
    planned = sorted(request.planned_ns for request in record.requests)
    assert {round((b - a) / 1e6) for a, b in pairwise(planned)} == {50}
    sent = sorted(request.timing.sent_ns for request in record.requests)
    delays_s = [(request.timing.sent_ns - request.planned_ns) / NS for request in record.requests]
    assert min(delays_s) >= 0
    assert_figures(point, {"delay_s": spread(delays_s)})
    assert point.sent_req_per_s == pytest.approx(39 / (sent[-1] - sent[0]) * NS)
    received = [each.received_ns for each in asked(server)]
    assert point.sent_req_per_s == pytest.approx(39 / (received[-1] - received[0]) * NS, rel=0.02)
    assert point.sent_req_per_s == pytest.approx(20, rel=0.1)


def test_a_poisson_loop_follows_the_seeds_schedule(bench, server):
    lane = remote("a", server.url, chunks=2)
    load = Load(kind=LoadKind.OPEN, rates_req_per_s=(50.0,), arrivals=Arrivals.POISSON)
    plan = a_plan(lane, workload=QUICK, load=load, requests=20, warmup=0, seed=7)
    gaps = []
    for number in range(2):
        record = bench.run(replace(plan, id=f"run{number}"))
        planned = sorted(request.planned_ns for request in record.requests)
        gaps.append([planned_ns - planned[0] for planned_ns in planned])
        bench.store.requests.clear()
    assert gaps[0] == gaps[1]
    assert len(set(gaps[0])) == 20


def test_seconds_end_the_sending_and_await_the_answers(bench, server):
    lane = remote("a", server.url, chunks=3, first_chunk_s=0.2)
    record = bench.run(a_plan(lane, workload=QUICK, requests=None, seconds=0.5, warmup=0))
    (point,) = results(record).points
    assert 2 <= point.requests.ok <= 4
    assert point.requests.cancelled == 0


def test_repeats_alternate_the_lanes(bench, server):
    lanes = [remote(name, server.url, chunks=2) for name in ("a", "b")]
    record = bench.run(a_plan(*lanes, workload=QUICK, requests=1, warmup=1, repeats=4))
    assert [each.lanes[0] for each in record.passes] == list("abbaabba")
    measured = [request for request in record.requests if not request.warmup]
    starts = [request.timing.sent_ns for request in sorted(measured, key=lambda r: r.pass_number)]
    assert starts == sorted(starts)
    assert {point.repeats for point in results(record).points} == {4}


def test_every_request_of_a_lane_has_a_prompt_of_its_own_and_lanes_share_them(bench, server):
    lanes = [remote(name, server.url, chunks=2) for name in ("a", "b")]
    bench.run(a_plan(*lanes, workload=QUICK, requests=3, warmup=1, repeats=2))
    asked = [each.body["messages"][0]["content"] for each in server.seen if each.body["max_tokens"] > 1]
    assert len(asked) == 16
    assert len(set(asked)) == 8  # each once by a and once by b


def test_together_both_lanes_are_busy_until_the_slower_one_has_its_requests(bench, server):
    slow = remote("slow", server.url, chunks=3, first_chunk_s=0.3, interval_s=0.01)
    fast = remote("fast", server.url, chunks=3, first_chunk_s=0.02, interval_s=0.01)
    plan = a_plan(slow, fast, workload=QUICK, requests=2, warmup=0, isolation=Isolation.TOGETHER)
    result = results(bench.run(plan))
    counts = {(point.lane, len(point.together)): point.requests.ok for point in result.points}
    assert (counts["slow", 1], counts["fast", 1]) == (2, 2)
    assert counts["slow", 2] == 2
    assert counts["fast", 2] > 5
    assert {each.lane for each in result.interference} == {"slow", "fast"}
    assert any("together with slow" in note for p in result.points for note in p.notes)


def test_with_the_others_stopped_engines_make_way(bench, server):
    lanes = [remote(name, server.url, chunks=2) for name in ("a", "b")]
    plan = a_plan(*lanes, workload=QUICK, requests=1, warmup=0, isolation=Isolation.STOPPED)
    bench.run(plan)
    assert bench.engines.asked == ["stop b", "ready a", "stop a", "ready b"]


def test_stopping_keeps_what_was_measured(bench, server):
    lane = remote("a", server.url, chunks=400, first_chunk_s=0.05, interval_s=0.01)
    quick = remote("quick", server.url, chunks=3)
    plan = a_plan(quick, lane, workload=QUICK, load=Load(concurrencies=(2,)), requests=4, warmup=0)
    # The quick lane is over at once; the slow one is under way when it is told for the second time.
    bench.stop_when = lambda bench: sum(stage.startswith("a ·") for stage, _ in bench.told) > 2
    record = bench.run(plan)
    result = results(record)
    by_lane = {point.lane: point.requests for point in result.points}
    assert record.run.state is RunState.STOPPED
    assert record.run.finished_at is not None
    assert by_lane["quick"].ok == 4
    assert (by_lane["a"].ok, by_lane["a"].cancelled) == (0, 2)
    assert result.failed == 0
    cut = next(r for r in record.requests if r.finish_reason is FinishReason.CANCELLED)
    assert cut.timing.chunk_ns
    assert record.passes[-1].end_ns is not None


def test_a_sweep_stops_at_saturation(bench, server):
    # The script never saturates, so it is the number of levels that ends this one.
    lane = remote("a", server.url, chunks=5, first_chunk_s=0.1, interval_s=0.02)
    load = Load(kind=LoadKind.SWEEP, max_concurrency=4)
    record = bench.run(a_plan(lane, workload=QUICK, load=load, requests=4, warmup=0))
    result = results(record)
    assert [each.level.concurrency for each in record.passes] == [1, 2, 4]
    assert result.saturation == {"a": 4}


def test_progress_is_told_and_grows(bench, server):
    lanes = [remote(name, server.url, chunks=5, interval_s=0.05) for name in ("a", "b")]
    bench.run(a_plan(*lanes, workload=QUICK, requests=3, warmup=0))
    progress = [done for _, done in bench.told if done is not None]
    assert progress == sorted(progress)
    assert progress[0] == 0
    assert progress[-1] == pytest.approx(1)
    assert any(stage.startswith("a · concurrency 1: ") and "tok/s" in stage for stage, _ in bench.told)
    assert ("a: loading", None) in bench.told


class KnownTelemetry:
    def __init__(self):
        self.marks = 0

    async def mark(self):
        self.marks += 1

    async def use(self, lanes, start_ns, end_ns):
        assert tuple(lanes) == ("a",)
        assert start_ns < end_ns
        return (), (EngineUse(lane="a", peak_resident_bytes=7),)


def test_each_pass_knows_what_the_machine_did(bench, server):
    bench.telemetry = KnownTelemetry()
    lane = remote("a", server.url, chunks=2)
    record = bench.run(a_plan(lane, workload=QUICK, requests=1, repeats=2))
    assert bench.telemetry.marks == 4
    assert all(each.engines[0].peak_resident_bytes == 7 for each in record.passes)
    assert results(record).points[0].peak_resident_bytes == 7


class PublishedQueue:
    """A server's counter of queue times: a quarter of a second for each request that it was asked."""

    def __init__(self, server, foreign=0):
        self._server = server
        self._foreign = foreign
        self.read_ns = []
        server.script.metrics = self

    def __call__(self):
        self.read_ns.append(time.perf_counter_ns())
        requests = len(self._server.seen) + self._foreign * len(self.read_ns)
        name = "lmdeploy:request_queue_time_seconds"
        return Whole(body=f"{name}_sum {requests / 4}\n{name}_count {requests}\n".encode())


def test_each_pass_knows_how_long_the_engine_let_requests_wait(bench, server):
    published = PublishedQueue(server)
    lane = remote("a", server.url, chunks=3, first_chunk_s=0.05)
    record = bench.run(a_plan(lane, workload=QUICK, requests=3, warmup=2, repeats=2))
    assert [each.queues for each in record.passes] == [
        (EngineQueue(lane="a", requests=3, total_s=0.75),),
        (EngineQueue(lane="a", requests=3, total_s=0.75),),
    ]
    assert results(record).points[0].queue_s == QueueTime(mean_s=0.25, n=6)
    assert len(published.read_ns) == 4
    assert not any(
        each.start_ns <= read_ns <= each.end_ns for each in record.passes for read_ns in published.read_ns
    )


def test_somebody_elses_requests_make_the_queue_time_unknown(bench, server):
    PublishedQueue(server, foreign=1)
    record = bench.run(a_plan(remote("a", server.url, chunks=2), workload=QUICK, requests=2))
    (point,) = results(record).points
    assert record.passes[0].queues[0].requests == 3
    assert point.queue_s is None
    assert any("queue time unknown" in note for note in point.notes)


def test_a_server_whose_metrics_hang_is_asked_once_a_run(bench, server, monkeypatch):
    monkeypatch.setattr(recording, "_TIMEOUT_S", 0.2)
    asked = []

    def hang():
        asked.append(None)
        return Stream(steps=(), on_marked=print, on_ended=print, on_broken_off=print, is_silent=True)

    server.script.metrics = hang
    record = bench.run(a_plan(remote("a", server.url, chunks=2), workload=QUICK, requests=2, repeats=3))
    (point,) = results(record).points
    assert (point.requests.ok, point.queue_s, len(asked)) == (6, None, 1)


def test_a_run_waits_for_another_measurement_on_its_device(bench, server, tmp_path):
    bench.engines.device = "cuda:0"
    lane = remote("a", server.url, chunks=2)

    async def scenario():
        other = DeviceQueue(bench.locks_dir)
        ticket = other.join(frozenset({"cuda:0"}), print)
        await other.admission(ticket)
        run = asyncio.create_task(bench._run(a_plan(lane, workload=QUICK, requests=1)))
        while not any("Waiting for cuda:0" in stage for stage, _ in bench.told):
            await asyncio.sleep(0.02)
        assert not bench.store.requests
        other.release(ticket)
        return await run

    record = asyncio.run(asyncio.wait_for(scenario(), 30))
    assert record.run.state is RunState.DONE


def test_a_store_that_can_not_be_written_is_an_error_at_the_end_only(bench, server):
    bench.store.broken = True
    with pytest.raises(StoreError) as raised:
        bench.run(a_plan(remote("a", server.url, chunks=2), workload=QUICK, requests=1))
    assert raised.value.code == "store-full"


def test_a_store_that_recovers_loses_nothing(bench, server):
    bench.store.broken = True

    def mend(bench):
        bench.store.broken = not any(stage.startswith("a ·") for stage, _ in bench.told)
        return False

    bench.stop_when = mend
    lane = remote("a", server.url, chunks=3, interval_s=0.1)
    record = bench.run(a_plan(lane, workload=QUICK, requests=3, warmup=1))
    assert len(record.requests) == 4
    assert bench.store.closed


def test_a_new_run_names_its_lanes_and_version():
    run = new_run(a_plan(A, HF), None)
    assert run.state is RunState.RUNNING
    assert run.title == "a, hf · c = 1"
    assert [facts.lane for facts in run.lanes] == [A, HF]
    assert run.lmdyno.count(".") == 2


class Notes:
    """Stands in for the notes of stopped requests: busy for the first looks."""

    def __init__(self, *said):
        self.said = list(said)

    def note(self, endpoint):
        pass

    def before(self, endpoint):
        return self.said.pop(0) if len(self.said) > 1 else self.said[0]


def test_a_pass_waits_for_an_engine_that_finishes_a_stopped_request(bench, server):
    busy = Unfinished(lanes=("a",))
    bench.stopped = Notes(busy, busy, Unfinished())
    lane = remote("a", server.url, chunks=3)
    record = bench.run(a_plan(lane, workload=QUICK, requests=2, warmup=0))
    assert sum("waiting until a stopped request is finished" in stage for stage, _ in bench.told) == 2
    assert bench.stopped.said == [Unfinished()]
    assert all(request.ok for request in record.requests)


def test_a_server_that_may_still_be_busy_is_told_with_the_results(bench, server):
    bench.stopped = Notes(Unfinished(server_is_silent=True))
    lane = remote("a", server.url, chunks=3)
    (point,) = results(bench.run(a_plan(lane, workload=QUICK, requests=2, warmup=0))).points
    assert any("stopped shortly before" in note for note in point.notes)


def test_what_answers_lack_is_told_with_the_results(bench, server):
    lane = remote("a", server.url, chunks=3, usage="none", finish_reason=None)
    (point,) = results(bench.run(a_plan(lane, workload=QUICK, requests=2, warmup=0))).points
    told = " ".join(point.notes)
    assert "2 of 2 answers ended without a reason" in told
    assert "counted no tokens for 2 of 2" in told


def test_a_surprise_in_one_request_ends_no_run(bench, server, monkeypatch):
    from core.bench.run import load

    sent = []
    send = load.send_explained

    async def surprising(*arguments, **more):
        sent.append(1)
        if len(sent) == 2:
            raise ValueError("a bug")
        await send(*arguments, **more)

    monkeypatch.setattr(load, "send_explained", surprising)
    lane = remote("a", server.url, chunks=3)
    (point,) = results(bench.run(a_plan(lane, workload=QUICK, requests=4, warmup=0))).points
    assert (point.requests.ok, point.requests.by_code) == (3, {"internal": 1})


def test_a_calibration_that_fails_is_tried_again_and_then_told(bench, server, monkeypatch):
    from core.bench import workload

    monkeypatch.setattr(workload, "_RETRY_S", 0.01)
    busy, fine = {"status": 503, "error": "full"}, {"chunks": 3}
    lanes = [
        remote("once", server.url, busy, *[fine] * 9),
        remote("always", server.url, busy, busy, *[fine] * 9),
        remote("uncounted", server.url, chunks=3, usage="none"),
    ]
    workload = QUICK
    record = bench.run(a_plan(*lanes, workload=workload, requests=2, warmup=0))
    said = {facts.lane.name: str(facts.prompts) for facts in record.run.lanes}
    assert "failed" not in said["once"]
    assert "counting by the server failed" in said["always"]
    assert "full" in said["always"]
    assert "doesn't count tokens" in said["uncounted"]


class LosingSenders:
    """Requests are sent from nodes, the first lane's node is lost."""

    def __init__(self, lost):
        self._lost = lost

    async def of(self, endpoints):
        if endpoints[0].model == self._lost.endpoint.model:
            raise EngineError("The node is lost.", code="load-process-ended")

    async def place(self, endpoint):
        return Place(node="gpu1", measured_on="gpu1", over_network=False)


@pytest.mark.parametrize("send_from", [SendFrom.ENGINE, SendFrom.NODES])
def test_a_lost_node_costs_the_lanes_that_are_measured_there(bench, server, send_from):
    lost, other = remote("a", server.url, chunks=3), remote("b", server.url, chunks=4)
    bench.senders = LosingSenders(lost)
    plan = a_plan(lost, other, workload=Workload(output_tokens=50), requests=2, send_from=send_from)
    if send_from is SendFrom.NODES:
        with pytest.raises(EngineError, match="The node is lost"):
            bench.run(plan)
        return
    record = bench.run(plan)
    assert record.run.state is RunState.DONE
    assert [facts.error and facts.error.code for facts in record.run.lanes] == ["load-process-ended", None]
    assert {request.lane for request in record.requests} == {"b"}
    assert record.run.lanes[1].place == Place(node="gpu1", measured_on="gpu1", over_network=False)
