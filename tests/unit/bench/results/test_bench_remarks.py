from dataclasses import replace

from core.bench.planning.plan import Isolation, Workload
from core.bench.results.remarks import remarks
from core.bench.results.result import results
from core.domain.bench import LaneFacts
from core.domain.turns import ErrorInfo, Place
from tests.unit.bench.bench_samples import A, B, a_failure, a_pass, a_plan, a_record, a_request, a_timing

FAST, SLOW, JITTER_S = 0.01, 0.02, 0.0005


def timed(number, lane, gap_s, **changes):
    return a_request(number, lane, timing=a_timing(gap_s=gap_s + (number % 3) * JITTER_S), **changes)


def said(*requests, passes=None, plan=None):
    passes = passes or [a_pass(0, ("a",)), a_pass(1, ("b",))]
    return remarks(results(a_record(plan or a_plan(A, B), passes, requests)))


def both(first_s, second_s, n):
    first = [timed(number, "a", first_s) for number in range(n)]
    return first + [timed(n + number, "b", second_s, pass_number=1) for number in range(n)]


def test_a_clear_difference_is_a_verdict_with_its_interval_and_n():
    (sentence,) = said(*both(SLOW, FAST, 12)).verdict
    assert sentence.startswith("b decodes 1.9")
    assert "(95%: 1." in sentence
    assert "n = 12) as fast as a, concurrency 1." in sentence


def test_an_interval_that_includes_one_is_no_verdict():
    (sentence,) = said(*both(FAST, FAST, 12)).verdict
    assert sentence.startswith("b and a, concurrency 1: no clear difference in decode speed")


def test_one_request_decides_nothing():
    (sentence,) = said(*both(SLOW, FAST, 1)).verdict
    assert "not decided" in sentence


def test_interference_is_said_in_its_own_direction():
    plan = a_plan(A, B, isolation=Isolation.TOGETHER)
    passes = [a_pass(0, ("a",)), a_pass(1, ("b",)), a_pass(2, ("a", "b"))]
    alone = [timed(n, lane, FAST, pass_number=place) for place, lane in enumerate("ab") for n in range(9)]

    def sentences(together_s):
        shared = [timed(n, lane, together_s, pass_number=2) for lane in "ab" for n in range(9)]
        return [line for line in said(*alone, *shared, passes=passes, plan=plan).verdict if "other" in line]

    assert all("slows down when the other lanes run too" in line for line in sentences(SLOW))
    assert all("is faster when the other lanes run too" in line for line in sentences(FAST / 2))
    assert all("no clear change" in line for line in sentences(FAST))


def test_answers_of_another_length_are_flagged():
    long = a_request(0, timing=a_timing(chunks=186))
    (warning,) = [
        line for line in said(long, plan=a_plan(A), passes=[a_pass()]).warnings if "tokens long" in line
    ]
    assert "1 of 1 answers are not 11 tokens long (186 to 186)" in warning
    at_most = a_plan(A, workload=Workload(prompt_tokens=32, output_tokens=20, fixed_output=False))
    assert not said(a_request(0), plan=at_most, passes=[a_pass()]).warnings
    assert said(long, plan=at_most, passes=[a_pass()]).warnings


def test_failures_and_lanes_left_out_are_warnings():
    record = a_record(a_plan(A, B), [a_pass()], [a_failure(0, "engine-busy")])
    lost = LaneFacts(lane=B, error=ErrorInfo("gpu-full", "It does not fit.", "Take less."))
    record = replace(record, run=replace(record.run, lanes=(record.run.lanes[0], lost)))
    warnings = remarks(results(record)).warnings
    assert "b was excluded: It does not fit. Take less." in warnings
    assert "a, concurrency 1: 1 request failed with engine-busy." in warnings


def test_what_the_plan_warned_of_is_repeated():
    other = replace(B, endpoint=replace(B.endpoint, model="other"))
    assert any("Differs between lanes: model" in line for line in said(plan=a_plan(A, other)).warnings)


def test_lanes_on_different_machines_are_a_warning():
    record = a_record(a_plan(A, B), [a_pass(0, ("a",)), a_pass(1, ("b",))], both(FAST, FAST, 3))
    places = (Place(over_network=False), Place(node="gpu1", over_network=True))
    lanes = tuple(LaneFacts(lane=lane, place=place) for lane, place in zip((A, B), places, strict=True))
    warnings = remarks(results(replace(record, run=replace(record.run, lanes=lanes)))).warnings
    assert "Differs between lanes: node: this machine (a) · gpu1 (b)." in warnings
    assert "Differs between lanes: between meter and engine: no network (a) · a network (b)." in warnings
