from dataclasses import replace

import pytest
from rich.console import Console

from core.bench.plan import Isolation, Limits, Load, Workload
from core.bench.results.result import results
from core.bench.results.tables import (
    Tone,
    distributions_table,
    points_table,
    queueing_table,
    remarks,
    repeats_table,
    resources_table,
)
from core.cli.bench import result_table
from core.domain.runs import LaneFacts
from core.domain.turns import ErrorInfo, Place
from core.reports.html import report_html
from core.ui.benchmark.result_parts import markdown
from tests.unit.bench.bench_samples import A, B, a_failure, a_pass, a_plan, a_record, a_request, a_timing


def cells(table, row=0):
    return dict(zip(table.head[1:], [cell.text for cell in table.rows[row].cells], strict=True))


def a_result(**changes):
    return results(a_record(a_plan(A, **changes), [a_pass()], [a_request(n) for n in range(4)]))


def test_a_point_has_every_figure_that_people_look_for():
    row = cells(points_table(a_result()))
    assert row["load"] == "1"
    assert (row["answered"], row["failed"]) == ("4", "0")
    assert (row["TTFT p50"], row["TPOT p50"], row["E2E p50"]) == ("100 ms", "10.0 ms", "200 ms")


def test_percentiles_of_few_requests_are_faint_and_failures_stand_out():
    requests = [a_request(0), a_failure(1, "engine-busy")]
    table = points_table(results(a_record(a_plan(A), [a_pass()], requests)))
    tones = [cell.tone for cell in table.rows[0].cells]
    assert tones[table.head.index("failed") - 1] is Tone.BAD
    assert tones[table.head.index("p95") - 1] is Tone.FAINT
    many = results(a_record(a_plan(A), [a_pass()], [a_request(n) for n in range(30)]))
    assert points_table(many).rows[0].cells[table.head.index("p95") - 1].tone is Tone.PLAIN


def test_goodput_is_a_column_only_where_there_are_limits():
    assert "goodput/s" not in points_table(a_result()).head
    assert cells(points_table(a_result(limits=Limits(ttft_s=1.0))))["goodput/s"] != "–"


def test_a_lane_together_with_others_says_so():
    plan = a_plan(A, B, isolation=Isolation.TOGETHER, load=Load(concurrencies=(1,)))
    record = a_record(plan, [a_pass(0, ("a", "b"))], [a_request(0, "a"), a_request(1, "b")])
    assert [row.lane_text for row in points_table(results(record)).rows] == ["a (together)", "b (together)"]


def test_unknown_is_a_dash():
    silent = a_request(0, timing=replace(a_timing(), output_tokens=None, chunk_tokens=(None,) * 11))
    result = results(a_record(a_plan(A), [a_pass()], [silent]))
    assert cells(points_table(result))["system speed"] == "–"
    assert cells(resources_table(result))["output tokens"] == "–"
    assert queueing_table(result) is None
    assert repeats_table(result) is None


def test_every_latency_has_its_n():
    rows = [row.cells for row in distributions_table(a_result()).rows]
    assert {row[1].text: row[2].text for row in rows} == {
        "TTFT": "4",
        "TPOT": "4",
        "ITL": "40",
        "ICL": "40",
        "E2E": "4",
    }


@pytest.mark.parametrize("table_of", [points_table, distributions_table, resources_table])
def test_page_terminal_and_report_show_the_same_cells(table_of, monkeypatch):
    monkeypatch.setattr("core.ui.benchmark.result_parts.lane_label", lambda name: name)
    requests = [a_request(n) for n in range(4)]
    record = a_record(a_plan(A), [a_pass()], requests)
    result = results(record)
    table = table_of(result)
    console = Console(width=300)
    with console.capture() as captured:
        console.print(result_table(table))
    shown = {
        "page": markdown(table).replace("\N{NO-BREAK SPACE}", " ").replace("\\", ""),
        "terminal": captured.get(),
        "report": report_html(result, record),
    }
    for place, text in shown.items():
        for row in table.rows:
            assert not [cell.text for cell in row.cells if cell.text not in text], place
    for place in ("page", "report"):
        assert not [name for name in table.head if name not in shown[place]], place


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
