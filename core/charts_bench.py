"""The charts of a load test: data → plotly Figure, like `core.charts`.

Every chart says in its title whether the lanes were measured alone or together. Axes carry units, hovering
shows all figures, and what is drawn from too few values is pale.
"""

from collections.abc import Callable, Mapping, Sequence

import plotly.graph_objects as go

from core import units
from core.bench.points import Point
from core.bench.results import BenchResult
from core.bench.statistics import P95_MIN_N, P99_MIN_N, Distribution
from core.domain.bench import BenchPass, BenchRequest

Colors = Mapping[str, str]
"""One colour a lane (`core.charts.lane_color`)."""

_PALE = 0.35
_CURVE_POINTS = 400
_WAITING_COLOR = "#b9c0cc"
_PERCENTILES: Mapping[str, tuple[Callable[[Distribution], float], int]] = {
    "mean": (lambda d: d.mean, 1),
    "p50": (lambda d: d.p50, 1),
    "p90": (lambda d: d.p90, 10),
    "p95": (lambda d: d.p95, P95_MIN_N),
    "p99": (lambda d: d.p99, P99_MIN_N),
}
"""What can be drawn of a distribution, and from how many values on it says something."""

LATENCIES: Mapping[str, tuple[str, Callable[[Point], Distribution | None]]] = {
    "TTFT": ("time to first token", lambda point: point.ttft_s),
    "TPOT": ("time per output token", lambda point: point.tpot_s),
    "ITL": ("inter-token latency", lambda point: point.itl_s),
    "ICL": ("inter-chunk latency", lambda point: point.icl_s),
    "E2E": ("end-to-end latency", lambda point: point.e2e_s),
}


def latency_chart(
    result: BenchResult, metric: str, colors: Colors, *, statistic: str = "p50", log: bool = False
) -> go.Figure:
    """One of `LATENCIES` against the load, a line a lane."""
    title, distribution_of = LATENCIES[metric]
    value, needed = _PERCENTILES[statistic]
    figure = go.Figure()
    for name, points in _series(result).items():
        drawn = [(point, found) for point in points if (found := distribution_of(point)) is not None]
        figure.add_scatter(
            x=[_load(point) for point, _ in drawn],
            y=[value(found) for _, found in drawn],
            name=name,
            mode="lines+markers",
            line={"color": colors[points[0].lane], "dash": _dash(points[0])},
            marker={"size": 9, "opacity": [1.0 if found.n >= needed else _PALE for _, found in drawn]},
            customdata=[_hover(point) for point, _ in drawn],
            hovertemplate="%{fullData.name}<br>%{customdata}<extra></extra>",
        )
    _label(figure, f"{metric} ({title}), {statistic}", _load_title(result), "seconds")
    loads = sorted({_load(point) for point in result.points})
    figure.update_xaxes(type="log", tickvals=loads, ticktext=[f"{load:g}" for load in loads])
    figure.update_yaxes(type="log" if log else "linear", rangemode="tozero", tickformat="~s", ticksuffix="s")
    return _with_conditions(figure, result)


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
            x=[per_user for _, per_user, _ in drawn],
            y=[system for _, _, system in drawn],
            name=name,
            mode="lines+markers+text",
            text=[f"{_load(point):g}" for point, _, _ in drawn],
            textposition="top right",
            line={"color": colors[points[0].lane], "dash": _dash(points[0])},
            marker={"size": 9},
            customdata=[_hover(point) for point, _, _ in drawn],
            hovertemplate="%{fullData.name}<br>%{customdata}<extra></extra>",
        )
    _label(
        figure,
        f"Throughput against speed of one stream; figures are the {_load_title(result)}",
        "decode speed of one request, tok/s",
        "system speed, tok/s",
    )
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(rangemode="tozero")
    return _with_conditions(figure, result)


def gaps_chart(requests: Sequence[BenchRequest], colors: Colors, *, log: bool = True) -> go.Figure:
    """What share of the gaps between tokens is how short; between chunks where their tokens are unknown."""
    gaps: dict[tuple[str, str], list[float]] = {}
    for request in requests:
        if request.ok and not request.warmup and request.timing:
            itl_s = request.timing.itl_s
            kind = "ICL" if itl_s is None else "ITL"
            gaps.setdefault((request.lane, kind), []).extend(request.timing.icl_s if itl_s is None else itl_s)
    figure = go.Figure()
    for (lane, kind), values in gaps.items():
        values.sort()
        last = len(values) - 1
        places = sorted({round(last * step / _CURVE_POINTS) for step in range(_CURVE_POINTS + 1)})
        figure.add_scatter(
            x=[values[place] for place in places] if values else [],
            y=[(place + 1) / len(values) for place in places] if values else [],
            name=f"{lane}, {kind}, n = {len(values):,}",
            mode="lines",
            line={"color": colors[lane], "shape": "hv"},
            hovertemplate="%{fullData.name}<br>%{y:.1%} within %{x:.3s}s<extra></extra>",
        )
    _label(figure, "Gaps between tokens (ITL) or chunks (ICL)", "seconds", "share of the gaps")
    figure.update_xaxes(type="log" if log else "linear", tickformat="~s", ticksuffix="s")
    if log:
        figure.update_xaxes(dtick=1)  # whole powers of ten: labels between them would run into each other
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    return figure


def timeline_chart(each: BenchPass, requests: Sequence[BenchRequest], colors: Colors) -> go.Figure:
    """The requests of one pass as bars from send to end, pale until the first token."""
    figure = go.Figure()
    shown = [
        (request, request.timing)
        for request in requests
        if request.pass_number == each.number and not request.warmup and request.timing
    ]
    for lane in each.lanes:
        own = [(request, timing) for request, timing in shown if request.lane == lane]
        rows = [f"{lane} {request.number}" for request, _ in own]
        sent_s = [(timing.sent_ns - each.start_ns) * 1e-9 for _, timing in own]
        ttft_s = [timing.ttft_s or timing.e2e_s or 0.0 for _, timing in own]
        e2e_s = [timing.e2e_s or 0.0 for _, timing in own]
        rest_s = [max(0.0, whole - first) for whole, first in zip(e2e_s, ttft_s, strict=True)]
        hover = [_request_hover(request) for request, _ in own]
        figure.add_bar(
            y=rows,
            x=ttft_s,
            base=sent_s,
            orientation="h",
            name=f"{lane}: waiting",
            marker_color=_WAITING_COLOR,
            customdata=hover,
            hovertemplate="%{y}<br>%{customdata}<extra></extra>",
        )
        figure.add_bar(
            y=rows,
            x=rest_s,
            base=[start + first for start, first in zip(sent_s, ttft_s, strict=True)],
            orientation="h",
            name=f"{lane}: decoding",
            marker_color=colors[lane],
            customdata=hover,
            hovertemplate="%{y}<br>%{customdata}<extra></extra>",
        )
    _label(figure, "Requests over time", "seconds from the start of the pass", "request")
    figure.update_layout(barmode="overlay", height=min(900, 140 + 14 * len(shown)))
    figure.update_yaxes(autorange="reversed", type="category", showticklabels=len(shown) <= 40)
    return figure


def speed_up_chart(result: BenchResult, colors: Colors) -> go.Figure:
    """How many times as fast each lane decodes as the baseline, with 95 % intervals."""
    figure = go.Figure()
    for each in result.speed_ups:
        ratio, interval = each.tpot_ratio, each.tpot_ratio.interval
        load = each.level.concurrency or each.level.rate_req_per_s
        figure.add_bar(
            y=[f"{each.lane}{' together' if len(each.together) > 1 else ''} · {load:g}"],
            x=[ratio.value],
            orientation="h",
            marker_color=colors[each.lane],
            text=[units.ratio(ratio.value)],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [interval.high - ratio.value if interval else 0],
                "arrayminus": [ratio.value - interval.low if interval else 0],
            },
            hovertemplate="%{y}: %{text}<extra></extra>",
            showlegend=False,
        )
    baseline = result.plan.lanes[0].name
    _label(figure, f"Decode speed over {baseline}", "times as fast", "")
    figure.add_vline(x=1, line_dash="dot")
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_layout(height=120 + 36 * len(result.speed_ups))
    return _with_conditions(figure, result)


def conditions(result: BenchResult) -> str:
    """How the lanes shared the machine, in words for every chart."""
    alone = any(len(point.together) == 1 for point in result.points)
    together = any(len(point.together) > 1 for point in result.points)
    if alone and together:
        return "solid: one lane at a time; dotted: all lanes together"
    return f"one lane at a time ({result.plan.sharing})" if alone else "all lanes together"


def _series(result: BenchResult) -> dict[str, list[Point]]:
    """The points of each line, by its name."""
    found: dict[str, list[Point]] = {}
    for point in sorted(result.points, key=_load):
        name = point.lane if len(point.together) == 1 else f"{point.lane}, together"
        found.setdefault(name, []).append(point)
    return found


def _load(point: Point) -> float:
    return point.level.concurrency or point.level.rate_req_per_s or 0


def _is_open(result: BenchResult) -> bool:
    return any(point.level.rate_req_per_s is not None for point in result.points)


def _load_title(result: BenchResult) -> str:
    return "requests a second" if _is_open(result) else "concurrency"


def _dash(point: Point) -> str:
    return "dot" if len(point.together) > 1 else "solid"


def _hover(point: Point) -> str:
    def both(found: Distribution | None) -> str:
        if found is None:
            return units.UNKNOWN
        return f"{units.milliseconds(found.p50)} (p95 {units.milliseconds(found.p95)}, n = {found.n:,})"

    lines = [
        f"load {_load(point):g}",
        f"TTFT {both(point.ttft_s)}",
        f"TPOT {both(point.tpot_s)}",
        f"E2E {both(point.e2e_s)}",
        f"system {units.tok_per_s(point.system_tok_per_s)}, {point.req_per_s:.2f} requests/s",
        f"{point.requests.ok:,} answered, {point.requests.failed:,} failed",
        *point.notes,
    ]
    return "<br>".join(lines)


def _request_hover(request: BenchRequest) -> str:
    timing = request.timing
    if request.error:
        return request.error.code
    return f"TTFT {units.milliseconds(timing.ttft_s if timing else None)}, E2E " + units.milliseconds(
        timing.e2e_s if timing else None
    )


def _label(figure: go.Figure, title: str, x: str, y: str) -> None:
    figure.update_layout(title={"text": title}, margin={"l": 0, "r": 16, "t": 56, "b": 0})
    figure.update_xaxes(title=x, automargin=True)
    figure.update_yaxes(title=y, automargin=True)


def _with_conditions(figure: go.Figure, result: BenchResult) -> go.Figure:
    figure.update_layout(title_subtitle_text=conditions(result))
    return figure
