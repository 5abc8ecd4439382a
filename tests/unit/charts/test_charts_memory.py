from datetime import UTC, datetime, timedelta

import pytest

from core.charts.memory import Bar, SweepBar, live_chart, order_chart, parts_chart, sequences_map, sweep_chart
from core.telemetry.samples import Event, EventKind
from core.telemetry.series import Lines

GIB = 2**30
S = 1_000_000_000
COLORS = {"hf": "#000001", "awq": "#000002"}
LINES = Lines(
    at_ns=(1 * S, 2 * S, 3 * S, 4 * S),
    engine_bytes={"hf": (GIB, GIB, None, GIB), "awq": (0, 2 * GIB, None, 2 * GIB)},
    others_bytes=(GIB, GIB, None, GIB),
    total_bytes=80 * GIB,
    utilisation_ratio=(0.0, 0.5, None, 1.0),
    power_w=(70.0, 300.0, None, 400.0),
    temperature_c=(30.0, 31.0, None, 33.0),
    engine_cpu_ratio={},
)


def wall(at_ns):
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=at_ns / S)


def traces(figure, **wanted):
    return [t for t in figure.data if all(getattr(t, name, None) == value for name, value in wanted.items())]


def live(lines=LINES, events=(), *, gpu=True):
    return live_chart(lines, events, colors=COLORS, wall=wall, gpu=gpu)


def test_memory_is_stacked_by_engine_and_a_gap_stays_a_gap():
    stacks = [trace for trace in live().data if trace.stackgroup]
    assert {trace.name for trace in stacks} == {"hf", "awq", "other programs"}
    assert {trace.stackgroup for trace in stacks} == {"memory0", "memory1"}
    assert [len(trace.x) for trace in stacks if trace.name == "hf"] == [2, 1]
    assert all(value is not None for trace in stacks for value in trace.y)


def test_the_legend_names_each_engine_once():
    named = [trace.name for trace in live().data if trace.showlegend is not False]
    assert named == ["hf", "awq", "other programs"]


def test_load_power_and_temperature_stand_below():
    figure = live()
    (power,) = traces(figure, name="Power")
    assert tuple(power.y) == LINES.power_w
    assert "Temperature, °C" in [note.text for note in figure.layout.annotations]


def test_events_are_marked_and_requests_are_bars():
    events = [
        Event(1 * S, "awq", EventKind.START),
        Event(2 * S, "awq", EventKind.REQUEST),
        Event(3 * S, "awq", EventKind.REQUEST_END),
        Event(3 * S, "awq", EventKind.REQUEST),
        Event(2 * S, "gone", EventKind.STOP),
    ]
    figure = live(events=events)
    (marks,) = traces(figure, mode="markers", name="awq")
    assert list(marks.text) == ["start"]
    bars = [
        t for t in figure.data if t.mode == "lines" and t.line.width == 8 and t.line.color == COLORS["awq"]
    ]
    assert list(bars[0].x) == [wall(2 * S), wall(3 * S), None, wall(3 * S), wall(4 * S), None]


def test_without_a_gpu_the_host_s_figures_are_drawn():
    lines = Lines(at_ns=(S,), engine_bytes={"hf": (GIB,)}, engine_cpu_ratio={"hf": (1.5,)})
    figure = live(lines, gpu=False)
    assert "CPU, cores" in [note.text for note in figure.layout.annotations]
    assert any(trace.y == (1.5,) for trace in figure.data)


def test_no_engine_is_no_error():
    lines = Lines(at_ns=(S,), engine_bytes={}, engine_cpu_ratio={})
    assert live(lines, gpu=False).layout.height


def test_parts_become_bars_and_unknown_ones_none():
    figure = parts_chart(
        [Bar(name="hf", parts=[("weights", 2 * GIB), ("KV reserved", None)])],
        limit_bytes=8 * GIB,
        limit_name="full",
    )
    weights, kv = figure.data
    assert (weights.name, weights.x, weights.text) == ("weights", (2.0,), ("2.00 GiB",))
    assert kv.x == (None,)
    assert figure.layout.shapes[0].x0 == 8.0


def test_engines_after_each_other_share_one_bar():
    bars = [Bar(name=name, parts=[("weights", GIB), ("KV cache", GIB)]) for name in COLORS]
    figure = order_chart(bars, limit_bytes=3 * GIB, limit_name="full", colors=COLORS)
    assert sum(trace.x[0] for trace in figure.data) == 4.0
    assert {trace.y for trace in figure.data} == {("GPU",)}


@pytest.mark.parametrize(("ratio", "line"), [(0.75, 0.75), (None, 0.05), (0.999, 0.95)])
def test_the_map_draws_the_out_of_memory_line(ratio, line):
    figure = sequences_map(
        [0.1, 0.2, 0.9],
        [1024, 4096],
        [[1, 20, 3000], [0, 5, 700]],
        out_of_memory_ratio=ratio,
        chosen=(0.2, 1024),
    )
    assert list(figure.data[0].text) == [["1", "20", "3k"], ["–", "5", "700"]]
    assert figure.data[0].z[1][0] is None
    lines = [shape for shape in figure.layout.shapes if shape.type == "line"]
    assert lines[0].x0 == pytest.approx(line)


def test_a_sweep_shows_the_error_in_per_cent():
    figure = sweep_chart(
        [
            SweepBar(name="0.4", predicted_bytes=11 * GIB, measured_bytes=10 * GIB),
            SweepBar(name="0.9", predicted_bytes=90 * GIB, measured_bytes=None),
        ],
        "memory",
    )
    predicted, measured = figure.data
    assert predicted.y == (11.0, 90.0)
    assert measured.y == (10.0, None)
    assert measured.text == ("+10.0%", "")
