import pytest

from core.bench.bandwidth import BandwidthUtilisation, Roofline
from core.bench.plan import Isolation, Limits, Load
from core.bench.results.result import results
from core.charts.comparison import (
    energy_chart,
    failures_chart,
    interference_chart,
    memory_chart,
    utilisation_chart,
)
from core.charts.load import latency_chart, throughput_chart
from core.charts.requests import incoming_chart
from core.domain.runs import EngineUse, GpuUse, LoadLevel
from tests.unit.bench.bench_samples import A, B, a_failure, a_pass, a_plan, a_record, a_request, a_timing

GIB = 2**30
COLORS = {"a": "#000001", "b": "#000002"}


@pytest.fixture
def record():
    """Two lanes alone and together; together TPOT is twice as long."""
    plan = a_plan(
        A, B, isolation=Isolation.TOGETHER, load=Load(concurrencies=(1,)), limits=Limits(ttft_s=0.2)
    )
    passes, requests = [], []
    for lanes in (("a",), ("b",), ("a", "b")):
        number = len(passes)
        gpus = (GpuUse(index=0, name="H100", energy_j=33.0),)
        uses = tuple(EngineUse(lane=lane, peak_resident_bytes=2 * GIB) for lane in lanes)
        passes.append(a_pass(number, lanes, gpus=gpus, engines=uses))
        requests += [
            a_request(
                len(requests) + place, lane, pass_number=number, timing=a_timing(gap_s=0.01 * len(lanes))
            )
            for lane in lanes
            for place in range(3)
        ]
    requests += [a_failure(len(requests), "engine-busy"), a_failure(len(requests) + 1, "stall-timeout")]
    return a_record(plan, passes, requests)


def bars(figure):
    (trace,) = figure.data
    return dict(zip(trace.y, trace.x, strict=True))


def subtitle(figure):
    return figure.layout.title.subtitle.text


def test_interference_has_a_bar_a_lane(record):
    figure = interference_chart(results(record), COLORS)
    assert bars(figure) == {"a · concurrency 1": pytest.approx(2), "b · concurrency 1": pytest.approx(2)}
    assert list(figure.data[0].marker.color) == [COLORS["a"], COLORS["b"]]
    assert "together" in subtitle(figure)


def test_energy_is_drawn_only_where_a_lane_was_alone(record):
    figure = energy_chart(results(record), COLORS)
    assert bars(figure) == {"a · concurrency 1": 1.0, "b · concurrency 1": 1.0}


def test_memory_is_the_gpus_where_that_is_known(record):
    assert bars(memory_chart(results(record), COLORS)) == {
        "a · concurrency 1": 2,
        "b · concurrency 1": 2,
        "a (together) · concurrency 1": 2,
        "b (together) · concurrency 1": 2,
    }


def test_failures_are_stacked_by_code(record):
    figure = failures_chart(results(record))
    assert {trace.name: tuple(trace.x) for trace in figure.data} == {
        "engine-busy": (1,),
        "stall-timeout": (1,),
    }
    assert figure.data[0].y == ("a · concurrency 1",)


def test_the_limit_is_called_theory():
    utilisation = BandwidthUtilisation(
        lane="a",
        decode_tok_per_s=60.0,
        n=4,
        limit=Roofline(weight_bytes=10**9, bandwidth_bytes_per_s=10**11),
        gpu_names=("H100",),
        measured=None,
    )
    figure = utilisation_chart([utilisation], COLORS)
    assert bars(figure) == {"a": pytest.approx(0.6)}
    assert "theory" in subtitle(figure)


def test_throughput_is_drawn_where_it_is_known(record):
    figure = throughput_chart(results(record), "goodput", COLORS)
    assert {trace.name for trace in figure.data} == {"a", "b", "a, together", "b, together"}
    without = a_record(a_plan(A), record.passes[:1], record.requests[:3])
    assert throughput_chart(results(without), "goodput", COLORS).data == ()


def test_whiskers_reach_from_p50_to_p95_and_are_pale_with_few_requests(record):
    result = results(record)
    figure = latency_chart(result, "TTFT", COLORS)
    whisker = next(trace for trace in figure.data if trace.hoverinfo == "skip")
    point = result.points[0]
    assert whisker.y[:2] == (point.ttft_s.p50, point.ttft_s.p95)
    assert whisker.opacity < 0.5
    assert not [t for t in latency_chart(result, "TTFT", COLORS, statistic="p95").data if t.hoverinfo]


def test_incoming_answers_are_dots_and_passes_are_lines(record):
    figure = incoming_chart(record.requests, record.passes, COLORS)
    ttft = next(trace for trace in figure.data if trace.name == "a" and trace.yaxis == "y")
    assert len(ttft.y) == 6
    assert ttft.y[0] == pytest.approx(0.1)
    assert len(figure.layout.shapes) == 2 * len(record.passes)
    assert incoming_chart([], [a_pass(end_ns=None, level=LoadLevel(concurrency=4))], COLORS).data == ()
