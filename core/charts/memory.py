"""Charts of GPU memory: by part, predicted, and predicted against measured.

Data → plotly Figure, like `core.charts.turn`; knows nothing of Streamlit, samplers or engines.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from core import units
from core.i18n import N_, _

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
