"""Build the charts of a comparison of benchmark runs. Data in, plotly figure out.

A run is named by a letter and told by its dash and marker; a lane keeps its colour.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from core import units
from core.bench.results.comparison import FIGURE_NAMES, MORE_IS_BETTER, ComparedPoint, Comparison
from core.bench.results.points import Point
from core.bench.statistics import Interval
from core.charts.load import point_hover
from core.i18n import N_, Text, _

LETTERS = "ABCDEF"
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")


@dataclass(frozen=True, slots=True)
class Curve:
    """A figure that is drawn against the load."""

    title: Text
    axis: Text
    value: Callable[[Point], float | None]
    seconds: bool = False


CURVES: Mapping[str, Curve] = {
    "TTFT": Curve(N_("TTFT, p50"), N_("seconds"), lambda p: p.ttft_s.p50 if p.ttft_s else None, seconds=True),
    "TPOT": Curve(N_("TPOT, p50"), N_("seconds"), lambda p: p.tpot_s.p50 if p.tpot_s else None, seconds=True),
    "System speed": Curve(N_("System speed"), N_("tok/s"), lambda p: p.system_tok_per_s),
    "Requests": Curve(N_("Answered requests"), N_("requests per second"), lambda p: p.req_per_s),
}


@dataclass(frozen=True, slots=True)
class Look:
    """The color and symbols of the points of one lane of one run."""

    color: str
    dash: str


Looks = Mapping[tuple[int, str], Look]
"""By the run's place and the lane's name."""


def looks(comparison: Comparison, lane_colors: Mapping[str, str]) -> Looks:
    """The look of each lane of each run; `lane_colors` has the colours that lanes have elsewhere."""
    return {
        (place, lane.name): Look(color=lane_colors[lane.name], dash=_DASHES[place])
        for place, result in enumerate(comparison.runs)
        for lane in result.plan.lanes
    }


def load_chart(comparison: Comparison, curve: Curve, styles: Looks, *, log: bool = False) -> go.Figure:
    """One of `CURVES` against the load, a line for each lane of each run."""
    figure = go.Figure()
    for place, result in enumerate(comparison.runs):
        for (lane, together), points in _series(result.points).items():
            look = styles[place, lane]
            drawn = [(point, value) for point in points if (value := curve.value(point)) is not None]
            if not drawn:
                continue
            symbol = _SYMBOLS[place] + ("-open" if together else "")
            figure.add_scatter(
                x=[point.level.value for point, _ in drawn],
                y=[value for _, value in drawn],
                name=_series_name(LETTERS[place], lane, together=together),
                mode="lines+markers",
                line={"color": look.color, "dash": look.dash},
                marker={"size": 9, "symbol": symbol},
                customdata=[point_hover(point) for point, _ in drawn],
                hovertemplate="%{fullData.name}<br>%{customdata}<extra></extra>",
            )
    loads = sorted({point.level.value for result in comparison.runs for point in result.points})
    _label(figure, _(curve.title), _load_title(comparison), _(curve.axis))
    figure.update_xaxes(type="log", tickvals=loads, ticktext=[f"{load:g}" for load in loads])
    figure.update_yaxes(type="log" if log else "linear", rangemode="tozero")
    if curve.seconds:
        figure.update_yaxes(tickformat="~s", ticksuffix="s")
    return figure


def change_chart(comparison: Comparison, name: str, styles: Looks) -> go.Figure:
    """By how much a figure of each run differs from the baseline's; 95 % intervals where there are any."""
    figure = go.Figure()
    shared = [point for point in comparison.points if point.points[comparison.baseline] is not None]
    for place in range(len(comparison.runs)):
        if place == comparison.baseline:
            continue
        rows = [
            (point, change, point.change_intervals(name, comparison.baseline)[place])
            for point in shared
            if (change := point.change_ratios(name, comparison.baseline)[place]) is not None
        ]
        if not rows:
            continue
        figure.add_bar(
            y=[point_name(point) for point, _, _ in rows],
            x=[change for _, change, _ in rows],
            orientation="h",
            name=LETTERS[place],
            marker_color=[styles[place, point.lanes[place]].color for point, _, _ in rows],
            text=[f"{LETTERS[place]} {units.percent(change)}" for _, change, _ in rows],
            textposition="auto",
            insidetextanchor="start",
            cliponaxis=False,
            error_x=_error_bars([(change, interval) for _, change, interval in rows]),
            hovertemplate="%{y}<br>%{text}<extra></extra>",
            showlegend=False,
        )
    baseline = LETTERS[comparison.baseline]
    if name in MORE_IS_BETTER:
        title = _(
            "{figure}: change from {run} (higher is better)", figure=_(FIGURE_NAMES[name]), run=baseline
        )
    else:
        title = _("{figure}: change from {run} (lower is better)", figure=_(FIGURE_NAMES[name]), run=baseline)
    _label(figure, title, "", "")
    bars = sum(len(trace.y) for trace in figure.data)
    figure.update_layout(height=110 + 34 * max(1, bars), barmode="group", bargap=0.3)
    figure.update_xaxes(tickformat="~%", zeroline=True)
    figure.update_yaxes(autorange="reversed", type="category")
    return figure


def point_name(point: ComparedPoint) -> str:
    """Such as `hf · concurrency 4`; with both lanes where two of different names are compared."""
    lanes = " / ".join(dict.fromkeys(name for name in point.lanes if name))
    if point.together:
        return _("{lanes} · {load}, together", lanes=lanes, load=point.level.label)
    return _("{lanes} · {load}", lanes=lanes, load=point.level.label)


def _series_name(letter: str, lane: str, *, together: bool) -> str:
    if together:
        return _("{run} · {lane}, together", run=letter, lane=lane)
    return _("{run} · {lane}", run=letter, lane=lane)


def _error_bars(changes: Sequence[tuple[float, Interval | None]]) -> dict[str, object] | None:
    if not any(interval for _, interval in changes):
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": [interval.high - change if interval else None for change, interval in changes],
        "arrayminus": [change - interval.low if interval else None for change, interval in changes],
    }


def _series(points: Sequence[Point]) -> dict[tuple[str, bool], list[Point]]:
    series: dict[tuple[str, bool], list[Point]] = {}
    for point in sorted(points, key=lambda point: point.level.value):
        series.setdefault((point.lane, point.is_together), []).append(point)
    return series


def _load_title(comparison: Comparison) -> str:
    levels = [point.level for result in comparison.runs for point in result.points]
    is_open = {level.concurrency is None for level in levels}
    if len(is_open) > 1:
        return _("concurrency or requests per second")
    return _("requests per second") if True in is_open else _("concurrency")


def _label(figure: go.Figure, title: str, x: str, y: str) -> None:
    figure.update_layout(title={"text": title}, margin={"l": 0, "r": 16, "t": 48, "b": 0}, height=340)
    figure.update_xaxes(title=x, automargin=True)
    figure.update_yaxes(title=y, automargin=True)
