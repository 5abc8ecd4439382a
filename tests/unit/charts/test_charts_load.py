import pytest

from core.bench.plan import Isolation, Load
from core.bench.results.result import results
from core.bench.results.tables import LATENCIES
from core.charts.colors import lane_color
from core.charts.comparison import speed_up_chart
from core.charts.load import latency_chart, pareto_chart
from core.charts.requests import gaps_chart, timeline_chart
from core.domain.runs import LoadLevel
from core.reports.html import report_html
from tests.unit.bench.bench_samples import A, B, a_failure, a_pass, a_plan, a_record, a_request, a_timing

COLORS = {name: lane_color(name, ["a", "b"]) for name in ("a", "b")}


@pytest.fixture
def record():
    plan = a_plan(
        A, B, isolation=Isolation.TOGETHER, load=Load(concurrencies=(4, 1)), title="<b>slow</b> & fast"
    )
    passes, requests = [], []
    for concurrency in (4, 1):
        for lanes in (("a",), ("b",), ("a", "b")):
            number = len(passes)
            passes.append(a_pass(number, lanes, level=LoadLevel(concurrency=concurrency)))
            for lane in lanes:
                gap_s = 0.02 if lane == "a" else 0.01
                timing = a_timing(gap_s=gap_s * len(lanes))
                requests += [
                    a_request(len(requests) + n, lane, pass_number=number, timing=timing) for n in range(3)
                ]
    requests.append(a_failure(len(requests), "engine-busy"))
    return a_record(plan, passes, requests)


def traces(figure):
    return {trace.name: trace for trace in figure.data}


@pytest.mark.parametrize("metric", LATENCIES)
def test_latency_against_load_has_a_line_a_lane_in_its_colour(record, metric):
    lines = traces(latency_chart(results(record), metric, COLORS))
    assert set(lines) == {"a", "b", "a, together", "b, together"}
    assert list(lines["a"].x) == [1, 4]
    assert (lines["a"].line.color, lines["a"].line.dash) == (COLORS["a"], "solid")
    assert (lines["a, together"].line.color, lines["a, together"].line.dash) == (COLORS["a"], "dot")


def test_a_tail_of_too_few_requests_is_pale(record):
    result = results(record)
    p95, p50 = (traces(latency_chart(result, "TTFT", COLORS, statistic=s))["b"] for s in ("p95", "p50"))
    assert max(p95.marker.opacity) < 1
    assert min(p50.marker.opacity) == 1


def test_the_values_drawn_are_the_results(record):
    result = results(record)
    drawn = traces(latency_chart(result, "TPOT", COLORS))["b"]
    points = {p.level.concurrency: p for p in result.points if p.lane == "b" and len(p.together) == 1}
    assert list(drawn.y) == [points[1].tpot_s.p50, points[4].tpot_s.p50]


def test_the_conditions_stand_on_every_chart_of_points(record):
    result = results(record)
    for figure in (latency_chart(result, "TTFT", COLORS), pareto_chart(result, COLORS)):
        assert "together" in figure.layout.title.subtitle.text


def test_throughput_against_speed_is_labelled_with_the_load(record):
    line = traces(pareto_chart(results(record), COLORS))["a"]
    assert list(line.text) == ["1", "4"]


def test_the_speed_up_has_its_interval(record):
    figure = speed_up_chart(results(record), COLORS)
    assert list(figure.data[0].x) == pytest.approx([2] * 4)
    assert len(figure.data[0].error_x.array) == 4


def test_gaps_say_what_they_are_and_how_many(record):
    names = set(traces(gaps_chart(record.requests, COLORS)))
    assert names == {"a, ITL, n = 120", "b, ITL, n = 120"}


def test_the_timeline_shows_one_pass(record):
    figure = timeline_chart(record.passes[2], record.requests, COLORS)
    waiting, decoding = figure.data[0], figure.data[1]
    assert len(waiting.y) == 3
    assert list(waiting.x) == pytest.approx([0.1] * 3)
    assert list(decoding.base) == pytest.approx([0.1] * 3)


def test_the_report_stands_alone_and_escapes_what_people_wrote(record):
    page = report_html(results(record), record)
    assert "&lt;b&gt;slow&lt;/b&gt; &amp; fast" in page
    assert "<b>slow</b>" not in page
    body = page.split("<body>")[1]
    assert body.count("Plotly.newPlot") >= 8
    assert "<script src" not in page
    assert "<link" not in page
    assert "1 request failed with engine-busy" in body


def test_a_run_without_an_answer_has_a_report_too():
    record = a_record(a_plan(A), [a_pass()], [a_failure(0, "engine-busy")])
    assert "engine-busy" in report_html(results(record), record)
