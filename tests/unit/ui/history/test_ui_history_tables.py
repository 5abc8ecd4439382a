import csv
import io
from datetime import UTC, datetime

import pytest

from core.bench.plan import Workload
from core.bench.results.comparison import compare
from core.bench.results.result import results
from core.domain.history import HistoryEntry, LaneSummary, RunKind, Summary
from core.ui.history import tables
from core.ui.history.tables import comparable, failures, rows
from tests.unit.bench.bench_samples import A, a_pass, a_plan, a_record, a_request, a_timing

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def entry(**changes):
    facts = {
        "kind": RunKind.BENCH,
        "id": "r1",
        "created_at": NOON,
        "updated_at": NOON,
        "title": "quick look",
        "lanes": ("hf", "awq"),
        "models": ("tiny",),
        "host": None,
        "state": "done",
    }
    return HistoryEntry(**facts | changes)


def a_result(gap_s, **plan):
    requests = [a_request(place, timing=a_timing(gap_s=gap_s * (1 + place / 50))) for place in range(4)]
    return results(a_record(a_plan(A, **plan), [a_pass()], requests))


def test_a_row_holds_the_figures_in_the_lanes_order():
    summary = Summary(
        lanes=(
            LaneSummary(lane="hf", ttft_s=0.0523, decode_tok_per_s=34.06),
            LaneSummary(lane="awq", ttft_s=None, decode_tok_per_s=None),
        ),
        answered=38,
        failed=2,
    )
    (row,) = rows([entry(summary=summary, note="two\nlines")]).to_pylist()
    assert (row["kind"], row["lanes"], row["machine"]) == ("Benchmark", ["hf", "awq"], None)
    assert (row["ttft"], row["decode"], row["failed"]) == (["52.3 ms", "–"], ["34.1", "–"], "2 of 40")
    assert row["note"] == "two lines"
    assert row["when"] == NOON


def test_a_turn_with_images_is_called_so():
    kinds = [entry(kind=RunKind.CHAT, with_images=seen) for seen in (False, True)]
    assert rows(kinds)["kind"].to_pylist() == ["Turn", "Turn with images"]


def test_what_is_not_known_yet_is_a_dash():
    assert failures(None) == "–"
    assert rows([entry()]).to_pylist()[0]["ttft"] == []


@pytest.mark.parametrize(
    ("kinds", "expected"), [("b", False), ("bb", True), ("bbbbbb", True), ("bbbbbbb", False), ("bc", False)]
)
def test_two_to_six_load_tests_can_be_compared(kinds, expected):
    found = [entry(kind=RunKind.BENCH if kind == "b" else RunKind.CHAT) for kind in kinds]
    assert comparable(found) is expected


def test_a_change_for_the_worse_is_red_and_an_unclear_one_grey():
    worse = tables.figure_table(compare([a_result(0.01), a_result(0.02)]), "tpot_s.mean")
    assert ":red[+100.0%\N{NO-BREAK SPACE}(" in worse
    better = tables.figure_table(compare([a_result(0.02), a_result(0.01)]), "tpot_s.mean")
    assert ":green[-50.0%\N{NO-BREAK SPACE}(" in better
    unclear = tables.figure_table(compare([a_result(0.01), a_result(0.0101)]), "tpot_s.mean")
    assert ":gray[+1.0%\N{NO-BREAK SPACE}(" in unclear


def test_more_speed_is_green():
    slow, fast = a_result(0.02), a_result(0.01)
    table = tables.figure_table(compare([slow, fast]), "system_tok_per_s")
    assert ":green[+" in table
    assert ":red[" not in table


def test_the_differences_of_the_workloads_are_named():
    other = Workload(prompt_tokens=64, output_tokens=11)
    comparison = compare([a_result(0.01), a_result(0.01, workload=other)])
    assert tables.workload_differences(comparison) == ["prompt_tokens: A 32, B 64"]
    table = tables.difference_table(comparison.settings, 2)
    assert table.to_pylist() == [{"setting": "workload.prompt_tokens", "differs": True, "A": "32", "B": "64"}]


def test_the_csv_has_a_row_a_figure_and_run():
    comparison = compare([a_result(0.01, title="first"), a_result(0.02, title="second")])
    found = list(csv.DictReader(io.StringIO(tables.to_csv(comparison))))
    base, other = [row for row in found if row["figure"] == "tpot_s.mean"]
    assert (base["is_baseline"], base["change_ratio"], base["change_low_ratio"]) == ("True", "0.0", "")
    assert (other["run_title"], other["lane"], other["concurrency"]) == ("second", "a", "1")
    assert float(other["change_ratio"]) == pytest.approx(1)
    assert float(other["change_low_ratio"]) < 1 < float(other["change_high_ratio"])
