"""Build the charts of a benchmark run against its load. Data in, plotly figure out.

Every chart says in its title whether the lanes were measured alone or together; together is dotted with
hollow markers. Axes carry units, hovering shows all figures, and what is drawn from too few values is pale.
`core.charts.comparison` has a bar per lane, `core.charts.requests` the single requests.
"""

from collections.abc import Callable, Mapping, Sequence

import plotly.graph_objects as go

from core import units
from core.bench.plan import BenchPlan, Isolation
from core.bench.results.points import Point
from core.bench.results.result import BenchResult
from core.bench.results.tables import LATENCIES
from core.bench.statistics import P90_MIN_N, P95_MIN_N, P99_MIN_N, Distribution
from core.i18n import N_, Text, _

Figure = go.Figure
"""For those who only pass a chart on."""

Colors = Mapping[str, str]
"""One colour per lane (`core.charts.colors.lane_color`)."""

_PALE = 0.35
_TEXT_SIZE = 14
"""Readable when projected."""
STATISTICS: Mapping[str, tuple[Callable[[Distribution], float], int]] = {
    "mean": (lambda d: d.mean, 1),
    "p50": (lambda d: d.p50, 1),
    "p90": (lambda d: d.p90, P90_MIN_N),
    "p95": (lambda d: d.p95, P95_MIN_N),
    "p99": (lambda d: d.p99, P99_MIN_N),
}
"""What can be drawn of a distribution, and from how many values on it says something."""

THROUGHPUTS: Mapping[str, tuple[Text, Text, Callable[[Point], float | None]]] = {
    "system": (N_("System speed"), N_("tok/s"), lambda point: point.system_tok_per_s),
    "requests": (N_("Answered requests"), N_("requests/s"), lambda point: point.req_per_s),
    "goodput": (
        N_("Goodput: answers within all limits"),
        N_("requests/s"),
        lambda point: point.goodput_req_per_s,
    ),
}
"""What a lane gets done, with its title, unit and value."""

LATENCY_TITLES: Mapping[str, Text] = {
    "TTFT": N_("time to first token"),
    "TPOT": N_("time per output token"),
    "ITL": N_("inter-token latency"),
    "ICL": N_("inter-chunk latency"),
    "E2E": N_("end-to-end latency"),
}
"""What the abbreviations of `core.bench.results.tables.LATENCIES` stand for."""


def latency_chart(
    result: BenchResult, metric: str, colors: Colors, *, statistic: str = "p50", log: bool = False
) -> go.Figure:
    """One of `LATENCIES` against the load, a line a lane; with the median, a whisker to p95."""
    title, distribution_of = LATENCY_TITLES[metric], LATENCIES[metric]
    value, needed = STATISTICS[statistic]
    figure = go.Figure()
    for name, points in _series(result).items():
        drawn = [
            (point, distribution) for point in points if (distribution := distribution_of(point)) is not None
        ]
        if statistic == "p50":
            _add_whiskers(figure, name, drawn, colors[points[0].lane])
        opacities = [1.0 if distribution.n >= needed else _PALE for _point, distribution in drawn]
        _add_line(
            figure,
            name,
            [(point, value(distribution)) for point, distribution in drawn],
            colors,
            opacities=opacities,
        )
    values = {"metric": metric, "meaning": _(title), "statistic": _(statistic)}
    heading = (
        _("{metric} ({meaning}), {statistic}, whiskers to p95", **values)
        if statistic == "p50"
        else _("{metric} ({meaning}), {statistic}", **values)
    )
    label_axes(figure, heading, _load_title(result), _("seconds"), conditions(result))
    figure.update_yaxes(tickformat="~s", ticksuffix="s")
    return _against_load(figure, result, log=log)


def throughput_chart(
    result: BenchResult, figure_name: str, colors: Colors, *, log: bool = False
) -> go.Figure:
    """One of `THROUGHPUTS` against the load, a line a lane."""
    title, unit, value = THROUGHPUTS[figure_name]
    figure = go.Figure()
    for name, points in _series(result).items():
        known = [(point, height) for point in points if (height := value(point)) is not None]
        _add_line(figure, name, known, colors)
    label_axes(figure, _(title), _load_title(result), _(unit), conditions(result))
    return _against_load(figure, result, log=log)


def pareto_chart(result: BenchResult, colors: Colors) -> go.Figure:
    """System speed against what one user sees of it; up and to the right is better."""
    figure = go.Figure()
    for name, points in _series(result).items():
        drawn = [
            (point, point.decode_tok_per_s.mean, point.system_tok_per_s)
            for point in points
            if point.decode_tok_per_s and point.system_tok_per_s is not None
        ]
        figure.add_scatter(
            x=[per_user for _point, per_user, _system in drawn],
            y=[system for _point, _user, system in drawn],
            name=name,
            mode="lines+markers+text",
            text=[f"{point.level.value:g}" for point, _user, _system in drawn],
            textposition="top right",
            cliponaxis=False,
            line={"color": colors[points[0].lane], "dash": _dash(points[0])},
            marker={"size": 10, "symbol": _symbol(points[0])},
            customdata=[point_hover(point) for point, _user, _system in drawn],
            hovertemplate="%{fullData.name}<br>%{customdata}<extra></extra>",
        )
    label_axes(
        figure,
        _("System throughput vs per-request speed, by {load}", load=_load_title(result)),
        _("decode speed of one request, tok/s"),
        _("system speed, tok/s"),
        conditions(result),
    )
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(rangemode="tozero")
    figure.update_layout(showlegend=True)
    return figure


def conditions(result: BenchResult, *, lines: bool = True) -> str:
    """Return how the lanes shared the machine and whether images were sent, in words for every chart.

    `lines`: of a chart that has dashes.
    """
    isolation = _isolation(result, lines=lines)
    if result.plan.workload.images:
        return _("{isolation} · with images", isolation=isolation)
    return isolation


def isolation_text(plan: BenchPlan, *, together: bool) -> str:
    """Return how the lanes shared the machine at one point."""
    if together:
        return _("all lanes together")
    if plan.isolation is Isolation.STOPPED:
        return _("one lane at a time, the engines of the others stopped")
    return _("one lane at a time, the others idle")


def _isolation(result: BenchResult, *, lines: bool) -> str:
    alone = any(not point.is_together for point in result.points)
    together = any(point.is_together for point in result.points)
    if not (alone and together):
        return isolation_text(result.plan, together=not alone)
    if lines:
        return _("filled and solid: one lane at a time; hollow and dotted: all lanes together")
    return _("alone, unless marked “together”")


def point_hover(point: Point) -> str:
    """All figures of a point, a line each."""

    def both(distribution: Distribution | None) -> str:
        if distribution is None:
            return units.UNKNOWN
        return _(
            "{p50} (p95 {p95}, n = {n})",
            p50=units.milliseconds(distribution.p50),
            p95=units.milliseconds(distribution.p95),
            n=f"{distribution.n:,}",
        )

    lines = [
        _(point.level.label),
        f"TTFT {both(point.ttft_s)}",
        f"TPOT {both(point.tpot_s)}",
        f"ITL {both(point.itl_s)}",
        f"E2E {both(point.e2e_s)}",
        _(
            "system {speed}, {rate} requests/s",
            speed=units.tok_per_s(point.system_tok_per_s),
            rate=f"{point.req_per_s:.2f}",
        ),
        _(
            "{answered} answered, {failed} failed",
            answered=f"{point.requests.ok:,}",
            failed=f"{point.requests.failed:,}",
        ),
        *(_(note) for note in point.notes),
    ]
    return "<br>".join(lines)


def label_axes(figure: go.Figure, title: str, x: str, y: str, subtitle: str) -> go.Figure:
    """Title, axis titles with their units, and margins: the same for every chart of a load test."""
    figure.update_layout(
        title={"text": title, "subtitle": {"text": subtitle, "font_size": _TEXT_SIZE}},
        legend={
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "x": 0,
            "font_size": _TEXT_SIZE,
        },
        margin={"l": 0, "r": 24, "t": 72, "b": 0},
    )
    for axes, text in ((figure.update_xaxes, x), (figure.update_yaxes, y)):
        title_of_axis = {"text": text, "font_size": _TEXT_SIZE, "standoff": 12}
        axes(title=title_of_axis, tickfont_size=_TEXT_SIZE, automargin=True)
    return figure


def _series(result: BenchResult) -> dict[str, list[Point]]:
    """The points of each line, by its name."""
    series: dict[str, list[Point]] = {}
    for point in sorted(result.points, key=lambda point: point.level.value):
        name = _("{lane}, together", lane=point.lane) if point.is_together else point.lane
        series.setdefault(name, []).append(point)
    return series


def _is_open(result: BenchResult) -> bool:
    return any(point.level.rate_req_per_s is not None for point in result.points)


def _load_title(result: BenchResult) -> str:
    return _("requests per second") if _is_open(result) else _("concurrency")


def _dash(point: Point) -> str:
    return "dot" if point.is_together else "solid"


def _symbol(point: Point) -> str:
    return "circle-open" if point.is_together else "circle"


def _add_line(
    figure: go.Figure,
    name: str,
    points: Sequence[tuple[Point, float]],
    colors: Colors,
    *,
    opacities: Sequence[float] | None = None,
) -> None:
    if not points:
        return
    first = points[0][0]
    figure.add_scatter(
        x=[point.level.value for point, _found in points],
        y=[value for _point, value in points],
        name=name,
        legendgroup=name,
        mode="lines+markers",
        line={"color": colors[first.lane], "dash": _dash(first)},
        marker={"size": 10, "symbol": _symbol(first), "opacity": opacities or 1.0, "line_width": 2},
        customdata=[point_hover(point) for point, _found in points],
        hovertemplate="%{fullData.name}<br>%{customdata}<extra></extra>",
    )


def _add_whiskers(
    figure: go.Figure, name: str, points: Sequence[tuple[Point, Distribution]], color: str
) -> None:
    """From p50 up to p95, pale where there are too few values for a p95."""
    for is_pale in (False, True):
        drawn = [
            (point, distribution) for point, distribution in points if (distribution.n < P95_MIN_N) is is_pale
        ]
        if drawn:
            figure.add_scatter(
                x=[x for point, _found in drawn for x in (point.level.value, point.level.value, None)],
                y=[y for _point, distribution in drawn for y in (distribution.p50, distribution.p95, None)],
                name=name,
                legendgroup=name,
                showlegend=False,
                mode="lines+markers",
                line={"color": color, "width": 2},
                marker={
                    "symbol": "line-ew",
                    "size": [0, 12, 0] * len(drawn),
                    "line": {"color": color, "width": 2},
                },
                opacity=_PALE if is_pale else 0.8,
                hoverinfo="skip",
            )


def _against_load(figure: go.Figure, result: BenchResult, *, log: bool) -> go.Figure:
    """The load on a logarithmic axis that names the loads measured."""
    loads = sorted({point.level.value for point in result.points})
    figure.update_xaxes(type="log", tickvals=loads, ticktext=[f"{load:g}" for load in loads])
    figure.update_yaxes(type="log" if log else "linear", rangemode="normal" if log else "tozero")
    figure.update_layout(showlegend=True)
    return figure
