from dataclasses import replace

import pytest
from rich.console import Console

from core.bench.planning.plan import Isolation, Limits, Load
from core.bench.results.result import results
from core.bench.results.tables import (
    Tone,
    distributions_table,
    points_table,
    queueing_table,
    repeats_table,
    resources_table,
)
from core.cli.bench.tables import result_table
from core.reports.run_html import report_html
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
