from dataclasses import replace

import pytest

from core.bench.passes import Speed, expected_requests, speed_of
from core.bench.plan import Isolation, Limits, Load, LoadKind
from core.bench.results import result as result_module
from core.bench.results.definitions import Tool
from core.bench.results.points import meets
from core.bench.results.result import RunRecords, finished_part, newest_pass, results, summarise
from core.domain.runs import EngineUse, GpuUse, LaneFacts, LoadLevel, RunState
from core.domain.turns import ErrorInfo, FinishReason
from core.errors import StoreError
from tests.unit.bench.bench_samples import (
    HF,
    NS,
    A,
    B,
    a_failure,
    a_pass,
    a_plan,
    a_record,
    a_request,
    a_timing,
)


def timed(number, lane="a", *, pass_number=0, **timing):
    return a_request(number, lane, pass_number=pass_number, timing=a_timing(**timing))


def only_point(record, **options):
    (point,) = results(record, **options).points
    return point


def test_the_figures_of_a_point_follow_from_the_timestamps():
    # Four answers of 11 tokens, one after another: each 0.1 s to the first token and 0.1 s for the other ten.
    requests = [timed(number, sent_s=0.2 * number) for number in range(4)]
    point = only_point(a_record(a_plan(A), [a_pass()], requests))
    assert point.ttft_s.mean == pytest.approx(0.1)
    assert point.tpot_s.p50 == pytest.approx(0.01)
    assert point.e2e_s.p99 == pytest.approx(0.2)
    assert point.itl_s.mean == pytest.approx(0.01)
    assert (point.ttft_s.n, point.itl_s.n, point.icl_s.n) == (4, 40, 40)
    assert point.duration_s == pytest.approx(0.8)
    assert point.output_tokens == 44
    assert point.system_tok_per_s == pytest.approx(44 / 0.8)
    assert point.req_per_s == pytest.approx(4 / 0.8)
    assert point.decode_tok_per_s.mean == pytest.approx(100)
    assert point.e2e_tok_per_s.mean == pytest.approx(55)
    assert point.prompt_tokens == 40


def test_the_warm_up_is_left_out():
    requests = [replace(timed(0, ttft_s=9.0), warmup=True), timed(1)]
    point = only_point(a_record(a_plan(A), [a_pass()], requests))
    assert (point.requests.ok, point.ttft_s.p99) == (1, pytest.approx(0.1))


def test_failures_are_counted_by_code_and_never_averaged_in():
    cut = replace(a_failure(4, "engine-crashed"), timing=a_timing(ttft_s=9.0, chunks=3))
    stopped = a_request(5, timing=a_timing(ttft_s=8.0), finish_reason=FinishReason.CANCELLED)
    requests = [
        timed(0),
        a_failure(1, "engine-busy"),
        a_failure(2, "engine-busy"),
        a_failure(3, "stall-timeout"),
        cut,
        stopped,
    ]
    result = results(a_record(a_plan(A), [a_pass()], requests))
    counts = result.points[0].requests
    assert (counts.ok, counts.failed, counts.cancelled) == (1, 4, 1)
    assert counts.by_code == {"engine-busy": 2, "stall-timeout": 1, "engine-crashed": 1}
    assert result.points[0].ttft_s.high == pytest.approx(0.1)
    assert result.points[0].output_tokens == 11
    assert result.failed == 4


def test_a_point_without_an_answer_has_no_latency():
    point = only_point(a_record(a_plan(A), [a_pass()], [a_failure(0, "engine-busy")]))
    assert (point.ttft_s, point.tpot_s, point.system_tok_per_s, point.output_tokens) == (None,) * 4
    assert point.req_per_s == 0


def test_without_token_counts_there_are_no_speeds():
    timing = replace(a_timing(), output_tokens=None, chunk_tokens=None)
    point = only_point(a_record(a_plan(A), [a_pass()], [a_request(0, timing=timing)]))
    assert (point.system_tok_per_s, point.tpot_s, point.itl_s) == (None, None, None)
    assert point.icl_s.n == 10


def test_repeats_are_one_point_with_their_spread():
    passes = [a_pass(0), a_pass(1, repeat=1, start_ns=10 * NS, end_ns=11 * NS)]
    requests = [timed(0, ttft_s=0.1), timed(1, pass_number=1, sent_s=10, ttft_s=0.3)]
    point = only_point(a_record(a_plan(A, repeats=2), passes, requests))
    stability = point.stability["ttft_s"]
    assert (point.repeats, point.ttft_s.n, stability.n) == (2, 2, 2)
    assert stability.mean == pytest.approx(0.2)
    assert stability.cv_ratio == pytest.approx(0.02**0.5 / 0.2)
    # 22 tokens in 0.2 s and 0.4 s.
    assert point.system_tok_per_s == pytest.approx(22 / 0.6)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(ttft_s=0.1001), True),
        (Limits(ttft_s=0.05), False),
        (Limits(tpot_s=0.02, e2e_s=0.15), False),
        (Limits(ttft_s=1, tpot_s=1, e2e_s=1), True),
    ],
)
def test_a_request_is_good_if_it_keeps_every_limit(limits, expected):
    assert meets(a_timing(), limits) is expected


def test_one_token_exceeds_no_limit_of_tpot():
    assert meets(a_timing(chunks=1), Limits(tpot_s=0.001))


def test_what_can_not_be_judged_is_not_called_good():
    uncounted = replace(a_timing(), output_tokens=None)
    assert meets(uncounted, Limits(tpot_s=1.0)) is None
    assert meets(uncounted, Limits(ttft_s=0.01, tpot_s=1.0)) is False
    point = only_point(
        a_record(a_plan(A, limits=Limits(tpot_s=1.0)), [a_pass()], [a_request(0, timing=uncounted)])
    )
    assert point.goodput_req_per_s is None


def test_goodput_counts_good_requests_a_second_and_failed_ones_against_it():
    requests = [timed(0), timed(1, ttft_s=0.5), a_failure(2, "engine-busy")]
    point = only_point(a_record(a_plan(A, limits=Limits(ttft_s=0.2)), [a_pass()], requests))
    assert point.goodput_req_per_s == pytest.approx(1 / 0.6)
    assert point.goodput_ratio == pytest.approx(1 / 3)


def test_an_open_loop_tells_its_rate_and_delay():
    level = LoadLevel(rate_req_per_s=10.0)
    plan = a_plan(A, load=Load(kind=LoadKind.OPEN, rates_req_per_s=(10.0,)))
    requests = [
        replace(timed(number, sent_s=0.1 * number + 0.002), planned_ns=round(0.1 * number * NS))
        for number in range(5)
    ]
    point = only_point(a_record(plan, [a_pass(level=level)], requests))
    assert point.delay_s.mean == pytest.approx(0.002)
    assert point.sent_req_per_s == pytest.approx(10)


def test_the_speed_up_is_the_baselines_tpot_over_the_lanes():
    passes = [a_pass(0, ("a",)), a_pass(1, ("b",))]
    requests = [timed(n, "a", gap_s=0.02) for n in range(4)]
    requests += [timed(n, "b", pass_number=1, gap_s=0.01) for n in range(4, 8)]
    (speed_up,) = results(a_record(a_plan(A, B), passes, requests)).speed_ups
    assert (speed_up.lane, speed_up.tpot_ratio.value) == ("b", pytest.approx(2))
    assert speed_up.tpot_ratio.is_clear


def test_interference_is_tpot_together_over_tpot_alone():
    plan = a_plan(A, B, isolation=Isolation.TOGETHER)
    passes = [a_pass(0, ("a",)), a_pass(1, ("b",)), a_pass(2, ("a", "b"))]
    requests = [timed(n, "a", gap_s=0.01) for n in range(2)]
    requests += [timed(n, "b", pass_number=1, gap_s=0.01) for n in range(2, 4)]
    requests += [timed(n, "a", pass_number=2, gap_s=0.03) for n in range(4, 6)]
    requests += [timed(n, "b", pass_number=2, gap_s=0.015) for n in range(6, 8)]
    result = results(a_record(plan, passes, requests))
    assert {each.lane: each.tpot_ratio.value for each in result.interference} == {
        "a": pytest.approx(3),
        "b": pytest.approx(1.5),
    }
    assert [(point.lane, len(point.together)) for point in result.points] == [
        ("a", 1),
        ("b", 1),
        ("a", 2),
        ("b", 2),
    ]


def test_a_sweep_names_the_saturation_point():
    plan = a_plan(A, load=Load(kind=LoadKind.SWEEP, max_concurrency=4))
    passes = [a_pass(place, level=LoadLevel(concurrency=2**place)) for place in range(3)]
    gaps = {0: 0.01, 1: 0.0045, 2: 0.0044}
    requests = [timed(n, pass_number=n, ttft_s=0.0, gap_s=gaps[n]) for n in range(3)]
    assert results(a_record(plan, passes, requests)).saturation == {"a": 2}


def test_energy_and_memory_of_the_window():
    each = a_pass(
        gpus=(GpuUse(index=0, name="H100", energy_j=22.0),),
        engines=(EngineUse(lane="a", peak_gpu_bytes=5), EngineUse(lane="b", peak_gpu_bytes=9)),
    )
    point = only_point(a_record(a_plan(A), [each], [timed(0)]))
    assert (point.energy_j, point.energy_j_per_token, point.peak_gpu_bytes) == (22.0, 2.0, 5)


def test_energy_that_was_not_measured_in_every_pass_is_unknown():
    passes = [
        a_pass(0, gpus=(GpuUse(index=0, name="H100", energy_j=22.0),)),
        a_pass(1, repeat=1, gpus=(GpuUse(index=0, name="H100"),)),
    ]
    assert only_point(a_record(a_plan(A), passes, [timed(0), timed(1, pass_number=1)])).energy_j is None


def test_serial_transformers_is_said_at_concurrency_above_one():
    plan = a_plan(HF, load=Load(concurrencies=(1, 4)))
    passes = [a_pass(0, ("hf",)), a_pass(1, ("hf",), level=LoadLevel(concurrency=4))]
    one, four = results(a_record(plan, passes, [timed(0, "hf"), timed(1, "hf", pass_number=1)])).points
    assert not any("one request at a time" in note for note in one.notes)
    assert any("one request at a time" in note for note in four.notes)


def test_the_definition_switch_changes_the_figures_not_the_facts():
    requests = [a_request(0, timing=a_timing(role_first=True, tail_s=0.1))]
    record = a_record(a_plan(A), [a_pass()], requests)
    assert only_point(record, tool=Tool.VLLM).ttft_s.mean == pytest.approx(0.001)
    assert only_point(record, tool=Tool.SGLANG).e2e_s.mean == pytest.approx(0.3)
    assert only_point(record).ttft_s.mean == pytest.approx(0.1)


def test_a_run_that_just_began_has_no_points():
    assert results(a_record(a_plan(A), [], [])).points == ()


def at(number, concurrency, lanes=("a",)):
    return a_pass(number, lanes, level=LoadLevel(concurrency=concurrency))


def test_each_lane_is_summed_up_at_its_lightest_load():
    passes = [at(0, 4), at(1, 1), at(2, 1), at(3, 2, ("b",))]
    requests = [
        a_request(0, pass_number=0, timing=a_timing(ttft_s=9)),
        a_request(1, pass_number=1, timing=a_timing(ttft_s=0.1, gap_s=0.01)),
        a_request(2, pass_number=2, timing=a_timing(ttft_s=0.3, gap_s=0.01)),
        a_request(3, "b", pass_number=3, timing=a_timing(ttft_s=0.5, gap_s=0.02)),
    ]
    a, b = summarise(a_record(a_plan(A, B), passes, requests)).lanes
    assert (a.lane, a.ttft_s, a.decode_tok_per_s) == ("a", pytest.approx(0.2), pytest.approx(100))
    assert (b.lane, b.ttft_s, b.decode_tok_per_s) == ("b", pytest.approx(0.5), pytest.approx(50))


def test_alone_is_lighter_than_together():
    passes = [at(0, 1, ("a", "b")), at(1, 8)]
    requests = [
        a_request(0, pass_number=0, timing=a_timing(ttft_s=9)),
        a_request(1, pass_number=1, timing=a_timing(ttft_s=0.1)),
    ]
    assert summarise(a_record(a_plan(A, B), passes, requests)).lanes[0].ttft_s == pytest.approx(0.1)


def test_warm_up_and_failures_are_in_no_figure():
    requests = [
        a_request(0, warmup=True, timing=a_timing(ttft_s=9)),
        a_request(1, timing=a_timing(ttft_s=0.1)),
        a_failure(2, "engine-busy"),
    ]
    summary = summarise(a_record(a_plan(A), [a_pass()], requests))
    assert (summary.answered, summary.failed) == (1, 1)
    assert summary.lanes[0].ttft_s == pytest.approx(0.1)


def test_a_lane_that_could_not_take_part_counts_as_failed_and_has_no_figures():
    record = a_record(a_plan(A, B), [a_pass()], [a_request(0)])
    broken = (record.run.lanes[0], LaneFacts(lane=B, error=ErrorInfo("engine-crashed", "It died")))
    summary = summarise(replace(record, run=replace(record.run, lanes=broken)))
    assert summary.failed == 1
    assert (summary.lanes[1].ttft_s, summary.lanes[1].decode_tok_per_s) == (None, None)


def test_before_the_first_pass_there_is_nothing_to_tell():
    assert newest_pass(a_record(a_plan(A), [], [])) is None


def test_the_newest_pass_in_figures():
    passes = [a_pass(0), a_pass(1, ("b",), start_ns=10 * NS, end_ns=None)]
    requests = [
        a_request(0),
        *(a_request(n, "b", pass_number=1, timing=a_timing(sent_s=10, ttft_s=0.1 * n)) for n in (1, 2, 3)),
        a_request(4, "b", pass_number=1, warmup=True),
        replace(a_failure(5, "engine-busy", "b"), pass_number=1),
    ]
    progress = newest_pass(a_record(a_plan(A, B), passes, requests))
    assert (progress.answered, progress.failed) == (3, 1)
    assert progress.ttft_s == pytest.approx(0.2)
    assert progress.tpot_s == pytest.approx(0.01)
    # Three answers of 11 tokens, the last of which ended 0.4 s after the start of the pass.
    assert progress.system_tok_per_s == pytest.approx(33 / 0.4)


def test_a_pass_without_an_answer_has_no_figures():
    progress = newest_pass(a_record(a_plan(A), [a_pass(end_ns=None)], [a_failure(0, "engine-busy")]))
    assert (progress.answered, progress.failed, progress.ttft_s, progress.system_tok_per_s) == (
        0,
        1,
        None,
        None,
    )


def test_the_finished_part_leaves_out_what_goes_on():
    passes = [a_pass(0), a_pass(1, end_ns=None)]
    record = a_record(a_plan(A), passes, [a_request(0), a_request(1, pass_number=1)])
    part = finished_part(record)
    assert [each.number for each in part.passes] == [0]
    assert [request.number for request in part.requests] == [0]


def test_earlier_requests_tell_a_lanes_speed():
    assert speed_of([a_request(0), a_failure(1, "engine-busy")]) == Speed(
        ttft_s=pytest.approx(0.1), tpot_s=pytest.approx(0.01)
    )
    assert speed_of([a_failure(1, "engine-busy")]) is None
    assert speed_of([a_request(0, timing=a_timing(chunks=1))]) is None


def test_how_many_requests_a_point_will_have():
    speeds = {"a": Speed(ttft_s=0.89, tpot_s=0.01)}  # a second for 11 tokens
    timed = a_plan(A, requests=None, seconds=20, repeats=2, load=Load(concurrencies=(4,)))
    assert expected_requests(timed, A, LoadLevel(concurrency=4), speeds) == 160
    assert expected_requests(timed, A, LoadLevel(rate_req_per_s=3.0), speeds) == 120
    assert expected_requests(a_plan(A, requests=5, repeats=2), A, LoadLevel(concurrency=1)) == 10


PLAN = a_plan(A)


class Source:
    """A store that tells how often it was asked for requests."""

    def __init__(self, record):
        self.stored = record
        self.read = []

    def run(self, run_id):
        return self.stored.run if self.stored and self.stored.run.id == run_id else None

    def record(self, run_id):
        if self.run(run_id) is None:
            raise StoreError("gone", code="no-such-run")
        self.read.append("all")
        return self.stored

    def passes(self, run_id):
        return self.stored.passes

    def requests(self, run_id, *, after=-1):
        self.read.append(after)
        return tuple(request for request in self.stored.requests if request.number > after)

    def save(self, *numbers, state=RunState.RUNNING, **run):
        requests = [a_request(number) for number in numbers]
        self.stored = a_record(PLAN, [a_pass()], requests)
        self.stored = replace(self.stored, run=replace(self.stored.run, state=state, **run))


@pytest.fixture
def source():
    source = Source(None)
    source.save(0, 1)
    return source


def numbers(record):
    return [request.number for request in record.requests]


def test_a_run_that_goes_on_is_read_from_its_first_gap_on(source):
    records = RunRecords(source)
    source.save(0, 1, 3)
    assert numbers(records.record(PLAN.id)) == [0, 1, 3]
    source.save(0, 1, 2, 3, 4)
    assert numbers(records.record(PLAN.id)) == [0, 1, 2, 3, 4]
    assert source.read == ["all", 1]


def test_a_run_that_has_ended_is_read_once_but_its_note_stays_fresh(source):
    records = RunRecords(source)
    records.record(PLAN.id)
    source.save(0, 1, 2, state=RunState.DONE)
    assert numbers(records.record(PLAN.id)) == [0, 1, 2]
    source.save(0, 1, 2, state=RunState.DONE, note="the good one")
    assert records.record(PLAN.id).run.note == "the good one"
    assert source.read == ["all", 1]


def test_a_run_that_was_removed_is_an_error(source):
    records = RunRecords(source)
    records.record(PLAN.id)
    source.stored = None
    with pytest.raises(StoreError):
        records.record(PLAN.id)


def test_figures_are_computed_once_a_version_and_definition(source, monkeypatch):
    made = []
    compute = result_module.results
    monkeypatch.setattr(
        result_module, "results", lambda record, tool: made.append(tool) or compute(record, tool)
    )
    records = RunRecords(source)
    first = records.record(PLAN.id)
    assert records.result(first) == records.result(first)
    records.result(first, Tool.VLLM)
    assert made == [Tool.LMDYNO, Tool.VLLM]
    source.save(0, 1, 2)
    grown = records.result(records.record(PLAN.id))
    assert grown.points[0].requests.ok == 3
    assert made == [Tool.LMDYNO, Tool.VLLM, Tool.LMDYNO]


def test_large_runs_push_others_out(source, monkeypatch):
    monkeypatch.setattr(result_module, "_KEPT_REQUESTS", 2)
    records = RunRecords(source)
    source.save(0, 1, state=RunState.DONE)
    records.record(PLAN.id)
    other = a_plan(A, id="other")
    first, source.stored = source.stored, a_record(other, [a_pass()], [a_request(0)])
    records.record("other")
    source.stored = first
    records.record(PLAN.id)
    assert source.read == ["all", "all", "all"]
