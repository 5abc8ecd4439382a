"""The charts of a comparison of load tests: data → plotly Figure, like `core.charts.turn`.

A run is named by a letter. Lanes keep their colours as long as no two of the runs have a lane in common; if
they do, colours tell the runs apart and dashes their lanes. Markers tell the runs apart in either case.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from core import units
from core.bench.results.comparison import FIGURE_NAMES, MORE_IS_BETTER, ComparedPoint, Comparison
from core.bench.results.points import Point
from core.bench.statistics import Interval
from core.charts.colors import LANE_COLORS
from core.charts.load import load_text, point_hover
from core.domain.bench import LoadLevel

LETTERS = "ABCDEF"
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")


@dataclass(frozen=True, slots=True)
class Curve:
    """What is drawn against the load."""

    title: str
    axis: str
    value: Callable[[Point], float | None]
    seconds: bool = False


CURVES: Mapping[str, Curve] = {
    "TTFT": Curve("TTFT, p50", "seconds", lambda p: p.ttft_s.p50 if p.ttft_s else None, seconds=True),
    "TPOT": Curve("TPOT, p50", "seconds", lambda p: p.tpot_s.p50 if p.tpot_s else None, seconds=True),
    "System speed": Curve("System speed", "tok/s", lambda p: p.system_tok_per_s),
    "Requests": Curve("Answered requests", "requests a second", lambda p: p.req_per_s),
}


@dataclass(frozen=True, slots=True)
class Look:
    """How the points of one lane of one run are drawn."""

    color: str
    dash: str


Looks = Mapping[tuple[int, str], Look]
"""By the run's place and the lane's name."""


def shares_lanes(comparison: Comparison) -> bool:
    """Whether a lane is in two of the runs, so that colours have to tell the runs apart."""
    names = [lane.name for result in comparison.runs for lane in result.plan.lanes]
    return len(set(names)) < len(names)


def looks(comparison: Comparison, lane_colors: Mapping[str, str]) -> Looks:
    """The look of each lane of each run; `lane_colors` has the colours that lanes have elsewhere."""
    by_run = shares_lanes(comparison)
    names = list(dict.fromkeys(lane.name for result in comparison.runs for lane in result.plan.lanes))
    return {
        (place, lane.name): Look(
            color=LANE_COLORS[place] if by_run else lane_colors[lane.name],
            dash=_DASHES[names.index(lane.name) % len(_DASHES)] if by_run else "solid",
        )
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
                x=[_load(point.level) for point, _ in drawn],
                y=[value for _, value in drawn],
                name=f"{LETTERS[place]} · {lane}{', together' if together else ''}",
                mode="lines+markers",
                line={"color": look.color, "dash": look.dash},
                marker={"size": 9, "symbol": symbol},
                customdata=[point_hover(point) for point, _ in drawn],
                hovertemplate="%{fullData.name}<br>%{customdata}<extra></extra>",
            )
    loads = sorted({_load(point.level) for result in comparison.runs for point in result.points})
    _label(figure, curve.title, _load_title(comparison), curve.axis)
    figure.update_xaxes(type="log", tickvals=loads, ticktext=[f"{load:g}" for load in loads])
    figure.update_yaxes(type="log" if log else "linear", rangemode="tozero")
    if curve.seconds:
        figure.update_yaxes(tickformat="~s", ticksuffix="s")
    return figure


def change_chart(comparison: Comparison, name: str, styles: Looks) -> go.Figure:
    """By how much a figure of each run differs from the baseline's; 95 % intervals where there are any."""
    figure = go.Figure()
    shared = [each for each in comparison.points if each.points[comparison.baseline] is not None]
    for place in range(len(comparison.runs)):
        if place == comparison.baseline:
            continue
        rows = [
            (each, change, each.change_intervals(name, comparison.baseline)[place])
            for each in shared
            if (change := each.change_ratios(name, comparison.baseline)[place]) is not None
        ]
        if not rows:
            continue
        figure.add_bar(
            y=[point_name(each) for each, _, _ in rows],
            x=[change for _, change, _ in rows],
            orientation="h",
            name=LETTERS[place],
            marker_color=[styles[place, each.lanes[place]].color for each, _, _ in rows],
            text=[f"{LETTERS[place]} {units.percent(change)}" for _, change, _ in rows],
            textposition="auto",
            insidetextanchor="start",
            cliponaxis=False,
            error_x=_error_bars([(change, interval) for _, change, interval in rows]),
            hovertemplate="%{y}<br>%{text}<extra></extra>",
            showlegend=False,
        )
    better = "more" if name in MORE_IS_BETTER else "less"
    title = f"{FIGURE_NAMES[name]}: change against {LETTERS[comparison.baseline]} ({better} is better)"
    _label(figure, title, "", "")
    bars = sum(len(trace.y) for trace in figure.data)
    figure.update_layout(height=110 + 34 * max(1, bars), barmode="group", bargap=0.3)
    figure.update_xaxes(tickformat="~%", zeroline=True)
    figure.update_yaxes(autorange="reversed", type="category")
    return figure


def point_name(each: ComparedPoint) -> str:
    """`hf / turbomind · concurrency 4`: the lanes that stand for each other, and the load."""
    lanes = " / ".join(dict.fromkeys(name for name in each.lanes if name))
    together = ", together" if each.together else ""
    return f"{lanes} · {load_text(each.level)}{together}"


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
    found: dict[tuple[str, bool], list[Point]] = {}
    for point in sorted(points, key=lambda point: _load(point.level)):
        found.setdefault((point.lane, len(point.together) > 1), []).append(point)
    return found


def _load(level: LoadLevel) -> float:
    return level.concurrency or level.rate_req_per_s or 0


def _load_title(comparison: Comparison) -> str:
    levels = [point.level for result in comparison.runs for point in result.points]
    titles = {"requests a second" if level.concurrency is None else "concurrency" for level in levels}
    return " or ".join(sorted(titles))


def _label(figure: go.Figure, title: str, x: str, y: str) -> None:
    figure.update_layout(title={"text": title}, margin={"l": 0, "r": 16, "t": 48, "b": 0}, height=340)
    figure.update_xaxes(title=x, automargin=True)
    figure.update_yaxes(title=y, automargin=True)
