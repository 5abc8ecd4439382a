import csv
import io

import pytest

from core.bench.plan import Workload
from core.bench.results.comparison import compare
from core.bench.results.result import results
from core.ui.history.compare_page import difference_table, figure_table, to_csv, workload_differences
from tests.unit.bench.bench_samples import A, a_pass, a_plan, a_record, a_request, a_timing


def a_result(gap_s, **plan):
    requests = [a_request(place, timing=a_timing(gap_s=gap_s * (1 + place / 50))) for place in range(4)]
    return results(a_record(a_plan(A, **plan), [a_pass()], requests))


def test_a_change_for_the_worse_is_red_and_an_unclear_one_grey():
    worse = figure_table(compare([a_result(0.01), a_result(0.02)]), "tpot_s.mean")
    assert ":red[+100.0%\N{NO-BREAK SPACE}(" in worse
    better = figure_table(compare([a_result(0.02), a_result(0.01)]), "tpot_s.mean")
    assert ":green[-50.0%\N{NO-BREAK SPACE}(" in better
    unclear = figure_table(compare([a_result(0.01), a_result(0.0101)]), "tpot_s.mean")
    assert ":gray[+1.0%\N{NO-BREAK SPACE}(" in unclear


def test_more_speed_is_green():
    slow, fast = a_result(0.02), a_result(0.01)
    table = figure_table(compare([slow, fast]), "system_tok_per_s")
    assert ":green[+" in table
    assert ":red[" not in table


def test_the_differences_of_the_workloads_are_named():
    other = Workload(prompt_tokens=64, output_tokens=11)
    comparison = compare([a_result(0.01), a_result(0.01, workload=other)])
    assert workload_differences(comparison) == ["prompt_tokens: A 32, B 64"]
    table = difference_table(comparison.settings, 2)
    assert table.to_pylist() == [{"setting": "workload.prompt_tokens", "differs": True, "A": "32", "B": "64"}]


def test_the_csv_has_a_row_a_figure_and_run():
    comparison = compare([a_result(0.01, title="first"), a_result(0.02, title="second")])
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    base, other = [row for row in rows if row["figure"] == "tpot_s.mean"]
    assert (base["is_baseline"], base["change_ratio"], base["change_low_ratio"]) == ("True", "0.0", "")
    assert (other["run_title"], other["lane"], other["concurrency"]) == ("second", "a", "1")
    assert float(other["change_ratio"]) == pytest.approx(1)
    assert float(other["change_low_ratio"]) < 1 < float(other["change_high_ratio"])
