import pytest

from core.charts.quality import (
    DifferenceRow,
    PrefixCurve,
    TradeOffPoint,
    difference_chart,
    prefix_chart,
    trade_off_chart,
)

COLORS = {"hf": "#111111", "awq": "#222222"}


def points(**changes) -> list[TradeOffPoint]:
    return [
        TradeOffPoint(
            lane="hf", quality=0.9, low=0.8, high=0.95, tok_per_s=30.0, size=4.0, is_reference=True
        ),
        TradeOffPoint(lane="awq", **{"quality": 0.6, "tok_per_s": 300.0, "size": 1.0, **changes}),
    ]


def test_each_lane_stands_at_its_quality_and_speed_with_its_interval():
    figure = trade_off_chart(points(), COLORS, quality="Right", size="Memory", is_share=True)
    hf, awq = figure.data
    assert (hf.x[0], hf.y[0], awq.x[0], awq.y[0]) == (30.0, 0.9, 300.0, 0.6)
    assert hf.error_y.array[0] == pytest.approx(0.05)
    assert hf.error_y.arrayminus[0] == pytest.approx(0.1)
    assert (hf.marker.symbol, awq.marker.symbol) == ("diamond", "circle")


def test_the_area_is_in_proportion_to_the_size():
    hf, awq = trade_off_chart(points(), COLORS, quality="Right", size="Memory", is_share=True).data
    assert hf.marker.size**2 == pytest.approx(4 * awq.marker.size**2)


def test_a_lane_without_a_figure_is_left_out():
    figure = trade_off_chart(points(quality=None), COLORS, quality="Right", size="Memory", is_share=True)
    assert [trace.name for trace in figure.data] == ["hf"]
    assert trade_off_chart([], COLORS, quality="Right", size="Memory", is_share=True).data == ()


def test_where_less_is_better_the_axis_is_reversed():
    figure = trade_off_chart(points(), COLORS, quality="Nats", size="Memory", is_share=False)
    assert figure.layout.yaxis.autorange == "reversed"
    assert "lower is better" in figure.layout.yaxis.title.text


def test_differences_are_drawn_beside_the_noise():
    rows = [DifferenceRow(lane="awq", value=0.1, low=0.08, high=0.13, text="+0.100")]
    figure = difference_chart(rows, COLORS, title="Nats", noise=0.002, is_share=False)
    (trace,) = figure.data
    assert (trace.x[0], trace.y[0]) == (0.1, "awq<br>+0.100")
    assert trace.error_x.array[0] == pytest.approx(0.03)
    band = next(shape for shape in figure.layout.shapes if shape.type == "rect")
    assert (band.x0, band.x1) == (-0.002, 0.002)


def test_the_share_of_equal_answers_falls_where_they_part_and_never_rises():
    curve = PrefixCurve(lane="awq", prefix_tokens=(4, 1, 2), lengths=(4, 4, 2))
    (trace,) = prefix_chart([curve], COLORS).data
    assert list(trace.x) == [0, 1, 2, 3, 4]
    # One of three parts at its second token; the third ends after two and is left out from there on.
    assert list(trace.y) == pytest.approx([1, 1, 2 / 3, 2 / 3, 2 / 3])


def test_without_a_parting_all_answers_stay_equal():
    curve = PrefixCurve(lane="awq", prefix_tokens=(3, 1), lengths=(3, 1))
    assert list(prefix_chart([curve], COLORS).data[0].y) == [1, 1, 1, 1]


def test_answers_that_part_at_once_are_no_longer_equal_after_one_token():
    curve = PrefixCurve(lane="awq", prefix_tokens=(0, 0), lengths=(3, 2))
    assert list(prefix_chart([curve], COLORS).data[0].y) == [1, 0, 0, 0]


def test_names_have_room_beside_the_fastest_lane():
    figure = trade_off_chart(points(), COLORS, quality="Right", size="Memory", is_share=True)
    assert figure.layout.xaxis.range[1] > 300
