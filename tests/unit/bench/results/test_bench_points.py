"""Queue times from the facts of a run to what is said of them."""

import json
from dataclasses import replace

import pytest
from rich.console import Console

from core.bench.plan import Load
from core.bench.results.points import QueueTime
from core.bench.results.result import results
from core.bench.results.tables import queueing_table
from core.cli.bench import result_table
from core.codec import decode, encode
from core.domain.runs import BenchPass, EngineQueue, LoadLevel
from core.domain.specs import EngineKind, EngineSettings, LaneSpec, ModelSpec
from core.reports.html import report_html
from core.reports.run_json import bench_from_json, bench_to_json
from tests.unit.bench.bench_samples import A, B, a_failure, a_pass, a_plan, a_record, a_request


def queue(requests, total_s, lane="a"):
    return EngineQueue(lane=lane, requests=requests, total_s=total_s)


def point(passes, requests, plan=None):
    (found,) = results(a_record(plan or a_plan(A), passes, requests)).points
    return found


def unknown(found):
    return found.queue_s is None and any("queue time unknown" in note for note in found.notes)


def test_the_mean_is_over_the_requests_of_all_passes():
    passes = [a_pass(0, queues=(queue(1, 0.5),)), a_pass(1, repeat=1, queues=(queue(2, 0.1),))]
    requests = [a_request(0), a_request(1, pass_number=1), a_request(2, pass_number=1)]
    found = point(passes, [*requests, a_request(3, warmup=True)])
    assert found.queue_s == QueueTime(mean_s=pytest.approx(0.2), n=3)
    assert not unknown(found)


def test_without_a_counter_it_is_unknown_without_a_word():
    found = point([a_pass()], [a_request(0)])
    assert found.queue_s is None
    assert not unknown(found)


def test_a_pass_without_it_leaves_the_point_without_it():
    passes = [a_pass(0, queues=(queue(1, 0.5),)), a_pass(1, repeat=1)]
    assert point(passes, [a_request(0), a_request(1, pass_number=1)]).queue_s is None


@pytest.mark.parametrize("counted", [1, 3])
def test_requests_that_are_not_ours_or_missing_make_it_unknown(counted):
    each = a_pass(queues=(queue(counted, 0.5),))
    assert unknown(point([each], [a_request(0), a_request(1)]))


def test_only_answered_requests_are_expected_of_the_counter():
    requests = [a_request(0), a_failure(1, "engine-busy")]
    assert point([a_pass(queues=(queue(1, 0.5),))], requests).queue_s.n == 1
    assert unknown(point([a_pass(queues=(queue(2, 0.5),))], requests))


def test_a_point_without_an_answer_has_no_mean():
    found = point([a_pass(queues=(queue(0, 0.0),))], [a_failure(0, "engine-busy")])
    assert found.queue_s is None


def test_lanes_together_have_each_their_own():
    each = a_pass(lanes=("a", "b"), queues=(queue(1, 0.5), queue(1, 0.25, "b")))
    found = results(a_record(a_plan(A, B), [each], [a_request(0), a_request(1, "b")])).points
    assert [point.queue_s.mean_s for point in found] == [0.5, 0.25]


def test_each_replica_has_its_places():
    lane = LaneSpec(
        name="a",
        kind=EngineKind.TURBOMIND,
        model=ModelSpec(name="tiny", checkpoint="/models/tiny"),
        settings=EngineSettings(max_batch_size=2, replicas=2),
    )
    each = a_pass(level=LoadLevel(concurrency=5), queues=(queue(1, 0.5),))
    notes = point([each], [a_request(0)], a_plan(lane, load=Load(concurrencies=(5,)), requests=5)).notes
    assert any("at most 4 requests at once" in note for note in notes)


@pytest.mark.parametrize(
    ("kind", "concurrency", "said"),
    [
        (EngineKind.TURBOMIND, 2, False),
        (EngineKind.TURBOMIND, 3, True),
        (EngineKind.TRANSFORMERS, 3, False),
    ],
)
def test_lmdeploys_wait_for_a_place_is_said_to_be_left_out(kind, concurrency, said):
    lane = LaneSpec(
        name="a",
        kind=kind,
        model=ModelSpec(name="tiny", checkpoint="/models/tiny"),
        settings=EngineSettings(max_batch_size=2),
    )
    each = a_pass(level=LoadLevel(concurrency=concurrency), queues=(queue(1, 0.5),))
    plan = a_plan(lane, load=Load(concurrencies=(concurrency,)))
    notes = point([each], [a_request(0)], plan).notes
    assert any("at most 2 requests at once" in note for note in notes) is said


@pytest.fixture
def record():
    return a_record(a_plan(A), [a_pass(queues=(queue(1, 0.0125),))], [a_request(0, planned_ns=0)])


def printed(table):
    console = Console(width=80)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_both_halves_are_told_everywhere(record):
    result = results(record)
    document = json.loads(bench_to_json(result, record, raw=False))
    assert document["points"][0]["queue_s"] == {"mean": 0.0125, "n": 1}
    assert document["points"][0]["delay_s"]["n"] == 1
    table = printed(result_table(queueing_table(result)))
    assert "12.5 ms" in table
    assert "In the engine: entry" in table
    assert "Before sending: schedule → send" in table
    page = report_html(result, record)
    assert '<td class="plain">12.5 ms</td><td class="plain">1</td></tr>' in page
    assert "<th>in the engine, mean</th>" in page


def test_unknown_is_no_number(record):
    none = replace(record, passes=(a_pass(),), requests=(a_request(0),))
    document = json.loads(bench_to_json(results(none), none, raw=False))
    assert document["points"][0]["queue_s"] is None
    assert queueing_table(results(none)) is None
    assert "<th>in the engine" not in report_html(results(none), none)


def test_an_exported_run_comes_back_with_it(record):
    back = bench_from_json(bench_to_json(results(record), record, raw=True))
    assert back.passes == record.passes
    assert results(back).points[0].queue_s == QueueTime(mean_s=0.0125, n=1)


def test_a_run_that_was_written_before_there_was_a_counter_still_opens(record):
    document = json.loads(bench_to_json(results(record), record, raw=True))
    del document["points"][0]["queue_s"], document["raw"]["passes"][0]["queues"]
    back = bench_from_json(encode(document))
    assert back.passes[0].queues == ()
    assert results(back).points[0].queue_s is None
    stored = json.loads(encode(a_pass()))
    del stored["queues"]
    assert decode(BenchPass, encode(stored)) == a_pass()
