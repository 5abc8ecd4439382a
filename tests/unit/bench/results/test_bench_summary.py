from dataclasses import replace

import pytest

from core.bench.planning.passes import Speed, expected_requests, speed_of
from core.bench.planning.plan import Load
from core.bench.results.summary import finished_part, newest_pass, summarise
from core.domain.bench import LaneFacts, LoadLevel
from core.domain.turns import ErrorInfo
from tests.unit.bench.bench_samples import NS, A, B, a_failure, a_pass, a_plan, a_record, a_request, a_timing


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
