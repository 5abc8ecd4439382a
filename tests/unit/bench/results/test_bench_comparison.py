from dataclasses import replace

import pytest

from core.bench.plan import Workload
from core.bench.results.comparison import (
    FIGURE_NAMES,
    FIGURES,
    compare,
    comparison_json,
    everything,
    known_figures,
)
from core.bench.results.result import results
from core.charts import comparison as charts_comparison
from core.charts.comparison import CURVES
from core.codec import encode
from core.reports.html import comparison_html
from tests.unit.bench.bench_samples import MACHINE, A, B, a_pass, a_plan, a_record, a_request, a_timing

COLORS = {"a": "#000001", "b": "#000002"}


def a_result(*gaps_s, lane=A, repeats=1, **plan):
    """A run whose answers have these gaps between their tokens, each repeat the same ones."""
    passes = [a_pass(number, (lane.name,), repeat=number) for number in range(repeats)]
    requests = [
        a_request(
            number * len(gaps_s) + place,
            lane.name,
            pass_number=number,
            timing=a_timing(sent_s=place, gap_s=gap_s * (1 + number / 100)),
        )
        for number in range(repeats)
        for place, gap_s in enumerate(gaps_s)
    ]
    return results(a_record(a_plan(lane, repeats=repeats, **plan), passes, requests))


def test_a_change_of_means_has_an_interval_around_it():
    comparison = compare([a_result(0.010, 0.011, 0.012), a_result(0.020, 0.021, 0.022)])
    (point,) = comparison.points
    _, change = point.change_ratios("tpot_s.mean", 0)
    own, interval = point.change_intervals("tpot_s.mean", 0)
    assert own is None
    assert interval.low < change < interval.high
    base, other = (each.tpot_s for each in point.points)
    half = (interval.high - interval.low) / 2
    relative = [(d.interval.high - d.interval.low) / 2 / d.mean for d in (base, other)]
    assert half == pytest.approx((1 + change) * (relative[0] ** 2 + relative[1] ** 2) ** 0.5)


def test_the_interval_of_a_speed_comes_from_its_repeats():
    gaps = (0.010, 0.011)
    once = compare([a_result(*gaps), a_result(*gaps)]).points[0]
    assert once.change_intervals("system_tok_per_s", 0) == (None, None)
    often = compare([a_result(*gaps, repeats=3), a_result(*gaps, repeats=3)]).points[0]
    assert often.change_intervals("system_tok_per_s", 0)[1] is not None


def test_percentiles_and_single_requests_have_no_interval():
    several = compare([a_result(0.010, 0.011), a_result(0.020, 0.021)]).points[0]
    assert several.change_intervals("ttft_s.p95", 0) == (None, None)
    single = compare([a_result(0.010), a_result(0.020, 0.021)]).points[0]
    assert single.change_intervals("tpot_s.mean", 0) == (None, None)


def test_everything_holds_what_is_the_same_too():
    longer = Workload(prompt_tokens=64, output_tokens=11)
    comparison = compare([a_result(0.01), a_result(0.01, workload=longer)])
    settings, environment = everything(comparison.runs)
    assert [row.path for row in comparison.settings] == ["plan.workload.prompt_tokens"]
    assert {row.path: row.values for row in settings}["plan.workload.output_tokens"] == ("11", "11")
    assert {row.path: row.values for row in environment}["machine.host"] == ("lab", "lab")
    assert comparison.environment == ()


def test_a_lane_that_a_run_lacks_is_one_difference():
    comparison = compare([a_result(0.01), a_result(0.01, lane=B)])
    assert [row.path for row in comparison.settings] == ["plan.lanes"]
    assert comparison.settings[0].values == ("a", "b")


def test_every_figure_has_a_name():
    assert set(FIGURE_NAMES) == set(FIGURES)


def test_a_comparison_is_a_document_with_its_version():
    found = comparison_json(compare([a_result(0.01), a_result(0.02)], 1))
    assert found["schema_version"] == 2
    assert found["baseline"] == found["runs"][1]
    assert encode(found)


def test_only_figures_that_can_be_compared_are_offered():
    figures = known_figures(compare([a_result(0.01), a_result(0.02)]))
    assert "tpot_s.mean" in figures
    assert "energy_j_per_token" not in figures


def test_lanes_keep_their_colours_in_every_run():
    both = results(a_record(a_plan(B, A), [a_pass()], [a_request(0)]))
    found = charts_comparison.looks(compare([a_result(0.01), both]), COLORS)
    assert found[0, "a"].color == found[1, "a"].color == COLORS["a"]
    assert found[1, "b"].color == COLORS["b"]


def test_runs_differ_in_their_dash():
    both = results(a_record(a_plan(B, A), [a_pass()], [a_request(0)]))
    found = charts_comparison.looks(compare([a_result(0.01), both]), COLORS)
    assert found[1, "a"].dash == found[1, "b"].dash != found[0, "a"].dash


def test_lanes_of_one_name_behind_different_servers_are_warned_of():
    moved = replace(A, endpoint=replace(A.endpoint, url="http://other:1/v1"))
    warnings = compare([a_result(0.01), a_result(0.01, lane=moved)]).warnings
    assert "a is not the same engine, model, or server in all runs." in warnings
    assert not any("not the same engine" in line for line in compare([a_result(0.01)] * 2).warnings)


def test_curves_name_run_and_lane():
    comparison = compare([a_result(0.01), a_result(0.02)])
    looks = charts_comparison.looks(comparison, COLORS)
    figure = charts_comparison.load_chart(comparison, CURVES["TPOT"], looks)
    assert [trace.name for trace in figure.data] == ["A · a", "B · a"]
    assert [trace.y[0] for trace in figure.data] == [pytest.approx(0.01), pytest.approx(0.02)]
    assert len({trace.marker.symbol for trace in figure.data}) == 2


def test_changes_are_drawn_for_all_but_the_baseline():
    comparison = compare([a_result(0.01, 0.011), a_result(0.02, 0.021), a_result(0.01, 0.01)], 1)
    looks = charts_comparison.looks(comparison, COLORS)
    figure = charts_comparison.change_chart(comparison, "tpot_s.mean", looks)
    assert [trace.name for trace in figure.data] == ["A", "C"]
    assert figure.data[1].x[0] == pytest.approx(0.01 / 0.0205 - 1)
    assert figure.data[0].error_x.array[0] > 0
    speed = charts_comparison.change_chart(comparison, "req_per_s", looks)
    assert speed.data[0].error_x.array is None


def test_the_report_stands_alone_and_escapes_what_people_wrote():
    first = a_result(0.01, title="<b>one</b>")
    comparison = compare([first, a_result(0.02)])
    page = comparison_html(comparison, COLORS)
    assert "&lt;b&gt;one" in page
    assert "<b>one" not in page
    assert page.count("plotly-graph-div") == len(CURVES) + len(known_figures(comparison))
    assert 'src="http' not in page


def test_a_run_from_an_unknown_machine_can_be_compared():
    known = a_result(0.01)
    unknown = replace(known, run=replace(known.run, machine=None))
    comparison = compare([known, unknown])
    hosts = {row.path: row.values for row in comparison.environment}["machine.host"]
    assert hosts == (MACHINE.host, "–")
