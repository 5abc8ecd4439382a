from dataclasses import replace

import pytest

from core.bench.results.summary import summarise
from core.domain.bench import LaneFacts, LoadLevel
from core.domain.turns import ErrorInfo
from tests.unit.bench.bench_samples import A, B, a_failure, a_pass, a_plan, a_record, a_request, a_timing


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
