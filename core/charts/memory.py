"""Charts of GPU memory: by part, predicted, predicted against measured, and live beside load and events.

Data → plotly Figure, like `core.charts.requests`; knows nothing of Streamlit, samplers or engines.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from core import units
from core.i18n import N_, _
from core.telemetry.samples import Event, EventKind
from core.telemetry.series import Lines

_GIB = 2**30
_OTHERS_COLOR = "#8b93a3"
_OUT_OF_MEMORY_COLOR = "#d0332c"
_LIMIT_TEXT = {"font_color": _OUT_OF_MEMORY_COLOR, "xanchor": "right", "y": 1, "yanchor": "bottom"}
PART_COLORS: dict[str, str] = {
    N_("CUDA context"): "#8b93a3",
    N_("baseline"): "#8b93a3",
    N_("repacking"): "#9a7cc9",
    N_("communication"): "#c2588f",
    N_("weights"): "#3b6fe0",
    N_("KV cache"): "#12937a",
    N_("KV reserved"): "#12937a",
    N_("KV in use"): "#0b6e5b",
    N_("KV reserved, not in use"): "#4fa08d",
    N_("buffers"): "#c07d10",
    N_("other"): "#c07d10",
}
"""One colour per part, in predictions and in measurements."""
_MARGIN = {"l": 0, "r": 8, "t": 24, "b": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One engine's memory in parts; None is a part whose size is not known."""

    name: str
    parts: Sequence[tuple[str, int | None]]


def parts_chart(bars: Sequence[Bar], *, limit_bytes: int | None = None, limit_name: str = "") -> go.Figure:
    """Each engine's memory as a bar of its parts; the limit is the out-of-memory line."""
    figure = go.Figure()
    names = [bar.name for bar in bars]
    parts = dict.fromkeys(part for bar in bars for part, _ in bar.parts)
    for part in parts:
        sizes = [dict(bar.parts).get(part) for bar in bars]
        figure.add_bar(
            y=names,
            x=[None if size is None else size / _GIB for size in sizes],
            name=_(part),
            orientation="h",
            marker_color=PART_COLORS.get(part, _OTHERS_COLOR),
            text=[units.gib(size) if size else "" for size in sizes],
            textposition="inside",
            textangle=0,
            insidetextanchor="middle",
            hovertemplate=f"%{{y}} · {_(part)} · %{{text}}<extra></extra>",
        )
    _add_limit(figure, limit_bytes, limit_name)
    return _laid_out_bars(figure, names)


def order_chart(
    bars: Sequence[Bar], *, limit_bytes: int, limit_name: str, colors: Mapping[str, str]
) -> go.Figure:
    """Engines on one GPU after each other: one bar, each engine's parts in its colour."""
    figure = go.Figure()
    for bar in bars:
        for place, (part, size) in enumerate(bar.parts):
            figure.add_bar(
                y=["GPU"],
                x=[(size or 0) / _GIB],
                name=bar.name,
                legendgroup=bar.name,
                showlegend=place == 0,
                orientation="h",
                marker={"color": colors[bar.name], "opacity": 1 - 0.2 * place, "line_width": 1},
                text=[_(part)],
                textposition="inside",
                textangle=0,
                insidetextanchor="middle",
                hovertemplate=f"{bar.name} · {_(part)} · {units.gib(size)}<extra></extra>",
            )
    _add_limit(figure, limit_bytes, limit_name)
    return _laid_out_bars(figure, ["GPU"])


def _add_limit(figure: go.Figure, limit_bytes: int | None, name: str) -> None:
    if limit_bytes is not None:
        figure.add_vline(
            x=limit_bytes / _GIB,
            line={"width": 2, "dash": "dash", "color": _OUT_OF_MEMORY_COLOR},
            annotation=_LIMIT_TEXT | {"text": name},
        )


def _laid_out_bars(figure: go.Figure, names: Sequence[str]) -> go.Figure:
    figure.update_xaxes(title="GiB", rangemode="tozero", fixedrange=True)
    figure.update_yaxes(autorange="reversed", type="category", fixedrange=True)
    figure.update_layout(
        barmode="stack",
        bargap=0.3,
        height=150 + 44 * len(names),
        uniformtext={"minsize": 10, "mode": "hide"},
        legend={"orientation": "h", "y": -0.5 if len(names) == 1 else -0.35, "traceorder": "normal"},
        margin=_MARGIN,
    )
    return figure


def sequences_map(
    ratios: Sequence[float],
    contexts: Sequence[int],
    sequences: Sequence[Sequence[int]],
    *,
    out_of_memory_ratio: float | None,
    chosen: tuple[float, int],
) -> go.Figure:
    """Sequences at once (rows: context lengths, columns: KV ratios) with the out-of-memory line.

    `out_of_memory_ratio` is the ratio at which nothing stays free; None where no ratio fits.
    """
    rows = [f"{context:,}" for context in contexts]
    figure = go.Figure()
    figure.add_heatmap(
        x=ratios,
        y=rows,
        # By orders of magnitude: from one long sequence to thousands of short ones.
        z=[[None if count < 1 else len(f"{count:b}") for count in row] for row in sequences],
        text=[[_short(count) for count in row] for row in sequences],
        texttemplate="%{text}",
        customdata=[[f"{count:,}" for count in row] for row in sequences],
        hovertemplate=_("ratio {x}, {y} tokens: {n} sequences", x="%{x}", y="%{y}", n="%{customdata}")
        + "<extra></extra>",
        colorscale="Teal",
        showscale=False,
        xgap=1,
        ygap=1,
    )
    step = ratios[1] - ratios[0]
    edge = ratios[-1] + step / 2
    line = ratios[0] - step / 2 if out_of_memory_ratio is None else min(out_of_memory_ratio, edge)
    figure.add_vrect(x0=line, x1=edge, fillcolor=_OUT_OF_MEMORY_COLOR, opacity=0.3, line_width=0)
    figure.add_vline(
        x=line,
        line={"width": 2, "dash": "dash", "color": _OUT_OF_MEMORY_COLOR},
        annotation=_LIMIT_TEXT | {"text": _("out of memory")},
    )
    ratio, context = chosen
    if context in contexts:
        figure.add_scatter(
            x=[ratio],
            y=[f"{context:,}"],
            mode="markers",
            marker={"symbol": "square-open", "size": 30, "color": _OUT_OF_MEMORY_COLOR, "line_width": 3},
            hoverinfo="skip",
            showlegend=False,
        )
    figure.update_xaxes(title=_("KV cache ratio (cache_max_entry_count)"), dtick=0.1, fixedrange=True)
    figure.update_yaxes(title=_("tokens per sequence"), type="category", fixedrange=True)
    figure.update_layout(height=90 + 34 * len(rows), margin=_MARGIN)
    return figure


def _short(count: int) -> str:
    """`12345` → "12k"; a cell of the map is small."""
    if count < 1:
        return "–"
    return str(count) if count < 1_000 else f"{count / 1_000:.0f}k"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepBar:
    """One point of a sweep; None where nothing was measured."""

    name: str
    predicted_bytes: int
    measured_bytes: int | None

    @property
    def error_ratio(self) -> float | None:
        if not self.measured_bytes:
            return None
        return self.predicted_bytes / self.measured_bytes - 1


def sweep_chart(points: Sequence[SweepBar], title: str) -> go.Figure:
    """Prediction beside measurement for each point, with the error in per cent."""
    figure = go.Figure()
    names = [point.name for point in points]
    figure.add_bar(
        x=names,
        y=[point.predicted_bytes / _GIB for point in points],
        name=_("predicted"),
        marker={"color": PART_COLORS["weights"], "pattern_shape": "/"},
        hovertemplate=_("{point}, predicted: {size}", point="%{x}", size="%{y:.2f} GiB") + "<extra></extra>",
    )
    figure.add_bar(
        x=names,
        y=[None if p.measured_bytes is None else p.measured_bytes / _GIB for p in points],
        name=_("measured"),
        marker_color=PART_COLORS["KV cache"],
        text=["" if p.error_ratio is None else f"{p.error_ratio:+.1%}" for p in points],
        textposition="outside",
        hovertemplate=_(
            "{point}, measured: {size}, error {error}", point="%{x}", size="%{y:.2f} GiB", error="%{text}"
        )
        + "<extra></extra>",
    )
    figure.update_yaxes(title=title, rangemode="tozero", fixedrange=True)
    figure.update_xaxes(type="category", fixedrange=True)
    figure.update_layout(barmode="group", height=340, legend={"orientation": "h", "y": 1.12}, margin=_MARGIN)
    return figure


_LINE_COLOR = "#7a8294"
_LIMIT_LINE = {"width": 1, "dash": "dash", "color": _LINE_COLOR}
_SYMBOLS = {
    EventKind.START: "triangle-right",
    EventKind.WEIGHTS: "square",
    EventKind.KV: "diamond",
    EventKind.READY: "circle",
    EventKind.STOP: "x",
    EventKind.FAILED: "x-open",
}
_KIND_NAMES = {
    EventKind.START: N_("start"),
    EventKind.WEIGHTS: N_("weights loaded"),
    EventKind.KV: N_("KV reserved"),
    EventKind.READY: N_("ready"),
    EventKind.STOP: N_("stopped"),
    EventKind.FAILED: N_("failed"),
}
EVENTS_KEY = N_(
    "Events: ▶ start · ■ weights loaded · ◆ KV reserved · ● ready · ✕ stopped or failed · bars: requests"
)
_GPU_PANELS = (N_("GPU memory, GiB"), N_("Utilisation"), N_("Power, W"), N_("Temperature, °C"))
_HOST_PANELS = (N_("Resident memory, GiB"), N_("CPU, cores"))


def live_chart(
    lines: Lines,
    events: Sequence[Event],
    *,
    colors: Mapping[str, str],
    wall: Callable[[int], datetime],
    gpu: bool,
) -> go.Figure:
    """Memory stacked by engine, the load below, and a strip of events above, on one time axis.

    A moment that was not measured is a gap. `gpu` chooses between a GPU's figures and the host's.
    """
    names = list(lines.engine_bytes)
    panels: tuple[str, ...] = _GPU_PANELS if gpu else _HOST_PANELS
    below = len(panels) - 1
    heights = [max(0.06, 0.03 * len(names)), 0.5, *[0.4 / below] * below]
    figure = make_subplots(
        rows=2 + below,
        shared_xaxes=True,
        vertical_spacing=0.045,
        row_heights=heights,
        subplot_titles=(_(EVENTS_KEY), *(_(panel) for panel in panels)),
    )
    times = [wall(at_ns) for at_ns in lines.at_ns]
    _add_events(figure, events, lines, colors, wall)
    _add_stack(figure, times, lines, colors)
    if gpu:
        _add_line(figure, 3, times, lines.utilisation_ratio, _LINE_COLOR, _("Utilisation"), ".0%")
        _add_line(figure, 4, times, lines.power_w, _LINE_COLOR, _("Power"), ".0f", " W")
        _add_line(figure, 5, times, lines.temperature_c, _LINE_COLOR, _("Temperature"), ".0f", " °C")
        figure.update_yaxes(range=[0, 1.02], tickformat=".0%", row=3)
    else:
        for name, ratio in lines.engine_cpu_ratio.items():
            _add_line(figure, 3, times, ratio, colors[name], name, ".2f", " cores")
    figure.update_xaxes(showspikes=True, spikemode="across", spikethickness=1, tickformat="%H:%M:%S")
    figure.update_yaxes(rangemode="tozero", nticks=5, fixedrange=True)
    figure.update_layout(
        height=640 if gpu else 480,
        hovermode="x unified",
        legend={"orientation": "h", "y": -0.06},
        margin={"l": 0, "r": 8, "t": 24, "b": 0},
    )
    figure.update_annotations(font_size=13, x=0, xanchor="left")
    return figure


def _add_stack(figure: go.Figure, times: Sequence[datetime], lines: Lines, colors: Mapping[str, str]) -> None:
    layers = {name: (values, colors[name]) for name, values in lines.engine_bytes.items()}
    if lines.others_bytes:
        layers[_("other programs")] = (lines.others_bytes, _OTHERS_COLOR)
    # A stacked area takes a missing value for zero, so every stretch between gaps is a stack of its own.
    for number, (start, end) in enumerate(_stretches(lines)):
        for name, (values, color) in layers.items():
            figure.add_scatter(
                x=times[start:end],
                y=[None if value is None else value / _GIB for value in values[start:end]],
                name=name,
                legendgroup=name,
                showlegend=number == 0,
                stackgroup=f"memory{number}",
                mode="lines",
                line={"width": 1, "color": color},
                hovertemplate="%{y:.2f} GiB",
                row=2,
                col=1,
            )
    if lines.total_bytes is not None:
        figure.add_hline(y=lines.total_bytes / _GIB, line=_LIMIT_LINE, row=2, col=1)


def _stretches(lines: Lines) -> list[tuple[int, int]]:
    """Index ranges without a gap in memory."""
    columns = [*lines.engine_bytes.values(), *([lines.others_bytes] if lines.others_bytes else [])]
    places = [i for i in range(len(lines.at_ns)) if all(column[i] is not None for column in columns)]
    if not places:
        return []
    breaks = [0, *(n for n, (i, j) in enumerate(pairwise(places), 1) if j != i + 1), len(places)]
    return [(places[start], places[end - 1] + 1) for start, end in pairwise(breaks)]


def _add_line(
    figure: go.Figure,
    row: int,
    times: Sequence[datetime],
    values: Sequence[float | None],
    color: str,
    name: str,
    number: str,
    unit: str = "",
) -> None:
    figure.add_scatter(
        x=times,
        y=values,
        name=name,
        mode="lines",
        line={"width": 1.5, "color": color},
        showlegend=False,
        hovertemplate=f"%{{y:{number}}}{unit}",
        row=row,
        col=1,
    )


def _add_events(
    figure: go.Figure,
    events: Sequence[Event],
    lines: Lines,
    colors: Mapping[str, str],
    wall: Callable[[int], datetime],
) -> None:
    """A line for each engine: marks for its start-up, bars for its requests."""
    names = list(lines.engine_bytes)
    for name in names:
        own = [event for event in events if event.engine == name]
        marks = [event for event in own if event.kind in _SYMBOLS]
        bars = _request_bars(own, lines.at_ns[-1], wall)
        figure.add_scatter(
            x=[x for bar in bars for x in (*bar, None)],
            y=[name, name, None] * len(bars),
            mode="lines",
            line={"width": 8, "color": colors[name]},
            hoverinfo="skip",
            showlegend=False,
            row=1,
            col=1,
        )
        figure.add_scatter(
            x=[wall(event.at_ns) for event in marks],
            y=[name] * len(marks),
            mode="markers",
            marker={"symbol": [_SYMBOLS[e.kind] for e in marks], "size": 9, "color": colors[name]},
            text=[_(_KIND_NAMES[event.kind]) for event in marks],
            hovertemplate="%{text}",
            name=name,
            showlegend=False,
            row=1,
            col=1,
        )
        for event in marks:
            line = {"width": 1, "dash": "dot", "color": colors[name]}
            figure.add_vline(x=wall(event.at_ns), line=line, row=2, col=1)
    figure.update_yaxes(type="category", categoryarray=names, range=[len(names) - 0.4, -0.6], row=1)


def _request_bars(
    events: Iterable[Event], until_ns: int, wall: Callable[[int], datetime]
) -> list[tuple[datetime, datetime]]:
    """Begin and end of each stretch in which the engine was in use."""
    bars: list[tuple[datetime, datetime]] = []
    began_ns: int | None = None
    for event in events:
        if event.kind is EventKind.REQUEST:
            began_ns = event.at_ns
        elif began_ns is not None and event.kind in (EventKind.REQUEST_END, EventKind.STOP, EventKind.FAILED):
            bars.append((wall(began_ns), wall(event.at_ns)))
            began_ns = None
    if began_ns is not None:
        bars.append((wall(began_ns), wall(max(began_ns, until_ns))))
    return bars
