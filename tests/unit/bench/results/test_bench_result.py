from dataclasses import replace

import pytest

from core.bench.planning.plan import Isolation, Limits, Load, LoadKind
from core.bench.results.definitions import Tool
from core.bench.results.points import meets
from core.bench.results.result import results
from core.domain.bench import EngineUse, GpuUse, LoadLevel
from core.domain.turns import FinishReason
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
