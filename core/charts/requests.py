"""Build the charts of single requests: those of a turn, and a benchmark run's token gaps and timeline.

Data in, plotly figure out. A lane has one colour everywhere, and bars carry its name too, so colour is
never the only mark.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from core import units
from core.bench.results.definitions import DEFINITIONS, Definition, Tool
from core.charts.load import Colors, label_axes
from core.domain.runs import BenchPass, BenchRequest
from core.domain.timing import Timing
from core.i18n import _


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneFigures:
    """One lane's part of the chart of a turn; None where the lane has no such figure."""

    lane: str
    ttft_s: float | None
    decode_tok_per_s: float | None
    speed_ratio: float | None
    """Decode speed over the baseline lane's; None for the baseline itself."""


def first_token_chart(
    lanes: Sequence[LaneFigures], colors: Mapping[str, str], *, with_images: bool = False
) -> go.Figure:
    """TTFT of each lane, from zero, in the order given; the title says if images are part of it."""
    figure = _lane_bars(
        lanes, colors, [lane.ttft_s for lane in lanes], [units.milliseconds(lane.ttft_s) for lane in lanes]
    )
    figure.update_layout(
        title=_("TTFT with images (lower is better)") if with_images else _("TTFT (lower is better)")
    )
    figure.update_xaxes(tickformat="~s", ticksuffix="s")  # 0.05 → "50ms"
    return figure


def decode_speed_chart(lanes: Sequence[LaneFigures], colors: Mapping[str, str]) -> go.Figure:
    """Decode speed of each lane, from zero, with its multiple of the baseline lane's."""
    figure = _lane_bars(
        lanes, colors, [lane.decode_tok_per_s for lane in lanes], [_speed_text(lane) for lane in lanes]
    )
    figure.update_layout(title=_("Decode speed, tok/s (higher is better)"))
    return figure


def _lane_bars(
    lanes: Sequence[LaneFigures],
    colors: Mapping[str, str],
    values: Sequence[float | None],
    texts: Sequence[str],
) -> go.Figure:
    names = [lane.lane for lane in lanes]
    figure = go.Figure(
        go.Bar(
            x=values,
            y=names,
            text=texts,
            orientation="h",
            marker_color=[colors[name] for name in names],
            textposition="auto",
            cliponaxis=False,
            hovertemplate="%{y}: %{text}<extra></extra>",
        )
    )
    figure.update_xaxes(rangemode="tozero", nticks=5, fixedrange=True)
    figure.update_yaxes(autorange="reversed", type="category", fixedrange=True)
    figure.update_layout(
        showlegend=False,
        bargap=0.35,
        height=80 + 36 * len(names),
        margin={"l": 0, "r": 24, "t": 36, "b": 0},
    )
    return figure


def _speed_text(lane: LaneFigures) -> str:
    text = units.tok_per_s(lane.decode_tok_per_s)
    return text if lane.speed_ratio is None else f"{text} ({units.ratio(lane.speed_ratio)})"


_CURVE_POINTS = 400
_WAITING_COLOR = "#8b93a3"
_PASS_LINE = {"width": 1, "dash": "dot", "color": "#7a8294"}
_LIVE_REQUESTS = 2000
"""The newest ones; more would make each refresh slow."""


def gaps_chart(
    requests: Sequence[BenchRequest],
    colors: Colors,
    *,
    log: bool = True,
    definition: Definition = DEFINITIONS[Tool.LMDYNO],
    subtitle: str = "",
) -> go.Figure:
    """Return what share of the gaps between tokens is how short; between chunks where their tokens are
    unknown.

    Another tool's definition has its own idea of these gaps.
    """
    gaps: dict[tuple[str, str], list[float]] = {}
    for request in requests:
        if request.ok and not request.warmup and request.timing:
            kind, lengths = _gaps_of(request.timing, definition)
            gaps.setdefault((request.lane, kind), []).extend(lengths)
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
            hovertemplate="%{fullData.name}<br>%{y:.1%} ≤ %{x:.3s}s<extra></extra>",
        )
    label_axes(
        figure,
        _("Gaps between tokens (ITL) or chunks (ICL)"),
        _("seconds"),
        _("share of the gaps"),
        subtitle,
    )
    figure.update_xaxes(type="log" if log else "linear", tickformat="~s", ticksuffix="s")
    if log:
        figure.update_xaxes(dtick="D2")  # 1, 2 and 5 of each power of ten
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    figure.update_layout(showlegend=True)
    return figure


def timeline_chart(
    bench_pass: BenchPass, requests: Sequence[BenchRequest], colors: Colors, *, subtitle: str = ""
) -> go.Figure:
    """The requests of one pass as bars from send to end, grey until the first token."""
    figure = go.Figure()
    shown = [
        (request, request.timing)
        for request in requests
        if request.pass_number == bench_pass.number and not request.warmup and request.timing
    ]
    for lane in bench_pass.lanes:
        own = [(request, timing) for request, timing in shown if request.lane == lane]
        rows = [f"{lane} {request.number}" for request, _timing in own]
        sent_s = [(timing.sent_ns - bench_pass.start_ns) * 1e-9 for _request, timing in own]
        ttft_s = [timing.ttft_s or timing.e2e_s or 0.0 for _request, timing in own]
        e2e_s = [timing.e2e_s or 0.0 for _request, timing in own]
        rest_s = [max(0.0, whole - first) for whole, first in zip(e2e_s, ttft_s, strict=True)]
        hover = [_request_hover(request) for request, _timing in own]
        for name, starts, lengths, color in (
            (_("{lane}: waiting", lane=lane), sent_s, ttft_s, _WAITING_COLOR),
            (
                _("{lane}: decoding", lane=lane),
                [start + first for start, first in zip(sent_s, ttft_s, strict=True)],
                rest_s,
                colors[lane],
            ),
        ):
            figure.add_bar(
                y=rows,
                x=lengths,
                base=starts,
                orientation="h",
                name=name,
                marker={"color": color, "line_width": 0},
                customdata=hover,
                hovertemplate="%{y}<br>%{customdata}<extra></extra>",
            )
    label_axes(figure, _("Requests over time"), _("seconds from the start of the pass"), "", subtitle)
    figure.update_layout(barmode="overlay", height=min(900, 160 + 14 * len(shown)), showlegend=True)
    figure.update_yaxes(autorange="reversed", type="category", showticklabels=len(shown) <= 40)
    return figure


def incoming_chart(
    requests: Sequence[BenchRequest], passes: Sequence[BenchPass], colors: Colors
) -> go.Figure:
    """TTFT and TPOT of the newest requests, each a dot where it ended; a line where a pass began."""
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.08, subplot_titles=("TTFT", "TPOT"))
    began_ns = min((bench_pass.start_ns for bench_pass in passes), default=0)
    shown = [
        (request, request.timing)
        for request in requests[-_LIVE_REQUESTS:]
        if request.ok and not request.warmup and request.timing and request.timing.chunk_ns
    ]
    for lane in dict.fromkeys(request.lane for request, _timing in shown):
        own = [timing for request, timing in shown if request.lane == lane]
        for row, values in enumerate(([t.ttft_s for t in own], [t.tpot_s for t in own]), start=1):
            figure.add_scatter(
                x=[(timing.chunk_ns[-1] - began_ns) * 1e-9 for timing in own],
                y=values,
                name=lane,
                legendgroup=lane,
                showlegend=row == 1,
                mode="markers",
                marker={"color": colors[lane], "size": 7},
                hovertemplate="%{fullData.name}: %{y:.3s}s<extra></extra>",
                row=row,
                col=1,
            )
    numbers = {request.pass_number for request, _timing in shown} | {
        bench_pass.number for bench_pass in passes[-1:]
    }
    _add_pass_lines(figure, [bench_pass for bench_pass in passes if bench_pass.number in numbers], began_ns)
    figure.update_yaxes(rangemode="tozero", tickformat="~s", ticksuffix="s", automargin=True, nticks=5)
    figure.update_xaxes(title=_("seconds from the start"), row=2, col=1)
    figure.update_layout(
        height=420,
        showlegend=True,
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
        margin={"l": 0, "r": 24, "t": 24, "b": 0},
    )
    figure.update_annotations(font_size=13)
    return figure


def _add_pass_lines(figure: go.Figure, passes: Sequence[BenchPass], began_ns: int) -> None:
    level = None
    for bench_pass in passes:
        at_s = (bench_pass.start_ns - began_ns) * 1e-9
        for row in (1, 2):
            figure.add_vline(x=at_s, line=_PASS_LINE, row=row, col=1)
        if bench_pass.level != level:  # its lanes are known by their colours
            level = bench_pass.level
            figure.add_annotation(
                x=at_s, y=1, yref="y domain", xanchor="left", showarrow=False, text=_(level.label)
            )


def _gaps_of(timing: Timing, definition: Definition) -> tuple[str, tuple[float, ...]]:
    if definition.tool is not Tool.LMDYNO:
        return _("ITL by {tool}", tool=definition.title), definition.apply(timing, None).itl_s
    return ("ICL", timing.icl_s) if timing.itl_s is None else ("ITL", timing.itl_s)


def _request_hover(request: BenchRequest) -> str:
    timing = request.timing
    if request.error:
        return request.error.code
    return _(
        "TTFT {ttft}, E2E {e2e}",
        ttft=units.milliseconds(timing.ttft_s if timing else None),
        e2e=units.milliseconds(timing.e2e_s if timing else None),
    )
