"""The live chart of memory and load, on one time axis with what happened to the engines.

Data → plotly Figure, like `core.charts.turn`; knows nothing of Streamlit, samplers or engines.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from core.i18n import N_, _
from core.telemetry.samples import Event, EventKind
from core.telemetry.series import Lines

_GIB = 2**30
_OTHERS_COLOR = "#8b93a3"
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
