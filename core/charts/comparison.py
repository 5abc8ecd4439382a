"""Build the charts that compare: the lanes of one benchmark run as bars, and several runs with each other.

Data in, plotly figure out. A lane keeps its colour. A run among several is named by a letter and told by its
dash and marker.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from core import units
from core.bench.bandwidth import BandwidthUtilisation
from core.bench.results.comparison import FIGURE_NAMES, MORE_IS_BETTER, ComparedPoint, Comparison
from core.bench.results.points import Point
from core.bench.results.result import BenchResult
from core.bench.statistics import Interval, Ratio
from core.charts.load import Colors, conditions, label_axes, point_hover
from core.domain.runs import LoadLevel
from core.i18n import N_, Text, _

_GIB = 2**30
_PALE = 0.35
_LIMIT_LINE = {"dash": "dot", "color": "#8b93a3"}
_INTERVAL_COLOR = "#7a8294"
_FAILURE_COLORS = ("#df0151", "#cd7c29", "#7e6685", "#a623bf", "#227300")
"""Of error codes, by how often they come; none of them stands for a lane here."""

LETTERS = "ABCDEF"
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")


@dataclass(frozen=True, slots=True)
class _Bar:
    lane: str
    name: str
    value: float
    text: str
    interval: Interval | None = None
    hover: str = ""
    is_clear: bool = True
    """Whether the bar shows a difference at all; pale if its interval doesn't say so."""


def speed_up_chart(result: BenchResult, colors: Colors) -> go.Figure:
    """Return how many times as fast each lane decodes as the baseline, with 95 % intervals."""
    bars = [
        _ratio_bar(
            speed_up.lane,
            _lane_and_load(speed_up.lane, speed_up.level, together=speed_up.is_together),
            speed_up.tpot_ratio,
        )
        for speed_up in result.speed_ups
    ]
    figure = _bars(bars, colors)
    figure.add_vline(x=1, line=_LIMIT_LINE)
    baseline = result.plan.lanes[0].name
    return label_axes(
        figure,
        _("Decode speed relative to {lane} (higher is better)", lane=baseline),
        _("TPOT of {lane} over the lane's", lane=baseline),
        "",
        conditions(result, lines=False),
    )


def interference_chart(result: BenchResult, colors: Colors) -> go.Figure:
    """Return what each lane loses while the others work too: 1 is nothing; with 95 % intervals."""
    bars = [
        _ratio_bar(loss.lane, _lane_and_load(loss.lane, loss.level), loss.tpot_ratio)
        for loss in result.interference
    ]
    figure = _bars(bars, colors)
    figure.add_vline(x=1, line=_LIMIT_LINE)
    return label_axes(
        figure,
        _("Interference factor (lower is better)"),
        _("TPOT together over TPOT alone"),
        "",
        _("all lanes together, compared with each alone at the same load"),
    )


def utilisation_chart(utilisations: Sequence[BandwidthUtilisation], colors: Colors) -> go.Figure:
    """Decode speed of one request as a share of what memory bandwidth allows; the limit is theory."""
    bars = [
        _Bar(
            lane_share.lane,
            lane_share.lane,
            lane_share.share,
            f"{lane_share.share:.0%}",
            hover=_(
                "{speed} of {limit}<br>n = {n} requests, concurrency 1",
                speed=units.tok_per_s(lane_share.decode_tok_per_s),
                limit=units.tok_per_s(lane_share.limit.decode_tok_per_s),
                n=f"{lane_share.n:,}",
            ),
        )
        for lane_share in utilisations
    ]
    figure = _bars(bars, colors)
    figure.add_vline(x=1, line=_LIMIT_LINE)
    figure.update_xaxes(tickformat=".0%", range=[0, max([1.05, *(bar.value * 1.1 for bar in bars)])])
    return label_axes(
        figure,
        _("Model bandwidth utilisation"),
        _("decode speed as a share of bandwidth ÷ weights"),
        "",
        _("theory: each token reads all weights once; KV cache and arithmetic are ignored"),
    )


def energy_chart(result: BenchResult, colors: Colors) -> go.Figure:
    """Energy for each output token, of the whole board; only where lanes were alone on it."""
    bars = [
        _Bar(
            point.lane,
            _lane_and_load(point.lane, point.level),
            point.energy_j_per_token,
            units.joules(point.energy_j_per_token),
            hover=_("{energy} in total", energy=units.joules(point.energy_j)),
        )
        for point in result.points
        if point.energy_j_per_token is not None
    ]
    return label_axes(
        _bars(bars, colors),
        _("Energy per output token (lower is better)"),
        _("joules, idle power included"),
        "",
        conditions(result, lines=False),
    )


def memory_chart(result: BenchResult, colors: Colors) -> go.Figure:
    """Peak memory of each lane's engine: on its GPUs where that is known, else in the host."""
    on_gpu = any(point.peak_gpu_bytes is not None for point in result.points)
    bars = [
        _Bar(point.lane, _bar_name(point), peak / _GIB, units.gib(peak))
        for point in result.points
        if (peak := point.peak_gpu_bytes if on_gpu else point.peak_resident_bytes) is not None
    ]
    title = _("Peak GPU memory by engine") if on_gpu else _("Peak resident memory by engine")
    return label_axes(_bars(bars, colors), title, "GiB", "", conditions(result, lines=False))


def failures_chart(result: BenchResult) -> go.Figure:
    """Failed requests by the code of their error."""
    points = [point for point in result.points if point.requests.failed]
    codes = list(dict.fromkeys(code for point in points for code in point.requests.by_code))
    figure = go.Figure()
    for place, code in enumerate(codes):
        numbers = [point.requests.by_code.get(code, 0) for point in points]
        figure.add_bar(
            x=numbers,
            y=[_bar_name(point) for point in points],
            name=code,
            orientation="h",
            marker_color=_FAILURE_COLORS[place % len(_FAILURE_COLORS)],
            text=[f"{number:,}" if number else "" for number in numbers],
            customdata=[point.requests.ended for point in points],
            hovertemplate="%{y}<br>%{fullData.name}: %{x} / %{customdata}<extra></extra>",
        )
    figure.update_layout(barmode="stack", showlegend=True, height=_height(len(points)))
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(rangemode="tozero")
    return label_axes(
        figure, _("Failed requests by cause"), _("requests"), "", conditions(result, lines=False)
    )


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


def _bars(bars: Sequence[_Bar], colors: Colors) -> go.Figure:
    figure = go.Figure(
        go.Bar(
            x=[bar.value for bar in bars],
            y=[bar.name for bar in bars],
            text=[bar.text for bar in bars],
            textposition="auto",
            insidetextanchor="start",
            textfont_size=14,
            cliponaxis=False,
            orientation="h",
            marker_color=[colors[bar.lane] for bar in bars],
            marker_opacity=[1.0 if bar.is_clear else _PALE for bar in bars],
            customdata=[bar.hover for bar in bars],
            hovertemplate="%{y}: %{text}<br>%{customdata}<extra></extra>",
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [bar.interval.high - bar.value if bar.interval else 0 for bar in bars],
                "arrayminus": [bar.value - bar.interval.low if bar.interval else 0 for bar in bars],
                "visible": any(bar.interval for bar in bars),
                "thickness": 2,
                "color": _INTERVAL_COLOR,
            },
        )
    )
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_layout(showlegend=False, bargap=0.3, height=_height(len(bars)))
    return figure


def _ratio_bar(lane: str, label: str, ratio: Ratio) -> _Bar:
    return _Bar(
        lane,
        label,
        ratio.value,
        units.ratio(ratio.value),
        ratio.interval,
        _ratio_hover(ratio),
        ratio.is_clear,
    )


def _ratio_hover(ratio: Ratio) -> str:
    if ratio.interval is None:
        return _("no interval: too few requests (n = {n})", n=ratio.n)
    return _(
        "95% interval {low} to {high}, n = {n}",
        low=f"{ratio.interval.low:.2f}",
        high=f"{ratio.interval.high:.2f}",
        n=ratio.n,
    )


def _height(bars: int) -> int:
    return 150 + 40 * max(1, bars)


def _bar_name(point: Point) -> str:
    return _lane_and_load(point.lane, point.level, together=point.is_together)


def _lane_and_load(lane: str, level: LoadLevel, *, together: bool = False) -> str:
    if together:
        return _("{lane} (together) · {load}", lane=lane, load=level.label)
    return _("{lane} · {load}", lane=lane, load=level.label)


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
