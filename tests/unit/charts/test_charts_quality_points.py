import pytest

from core.charts.quality_points import AccuracyBar, LatencyBar, accuracy_chart, latency_chart

COLORS = {"hf": "#111111", "pt": "#222222"}


def test_accuracy_stands_on_a_scale_to_all_with_its_interval():
    bars = [
        AccuracyBar(lane="hf", ratio=0.75, low=0.5, high=0.9, text="75%"),
        AccuracyBar(lane="pt", ratio=None, low=None, high=None, text="–"),
    ]
    figure = accuracy_chart(bars, COLORS)
    (trace,) = figure.data
    assert list(trace.x) == [0.75, None]
    assert list(trace.y) == ["hf<br>75%", "pt<br>–"]
    assert list(trace.marker.color) == ["#111111", "#222222"]
    assert list(trace.error_x.array) == pytest.approx([0.15, 0])
    assert list(trace.error_x.arrayminus) == pytest.approx([0.25, 0])
    assert list(figure.layout.xaxis.range) == [0, 1]


def test_latency_shows_both_medians_of_each_lane_from_zero():
    bars = [LatencyBar(lane="hf", ttft_s=0.1, e2e_s=2.0), LatencyBar(lane="pt", ttft_s=None, e2e_s=None)]
    figure = latency_chart(bars, COLORS)
    ttft, e2e = figure.data
    assert list(ttft.text) == ["TTFT 100 ms", "TTFT –"]
    assert list(e2e.x) == [2.0, None]
    assert figure.layout.xaxis.range[0] == 0
    assert figure.layout.xaxis.range[1] > 2.0


def test_latency_without_any_figure_is_an_empty_chart():
    figure = latency_chart([LatencyBar(lane="hf", ttft_s=None, e2e_s=None)], COLORS)
    assert list(figure.layout.xaxis.range) == [0, 1]
