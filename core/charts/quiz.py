"""Accuracy and latency of a quiz's lanes as figures. Knows nothing of quizzes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from core import units
from core.i18n import _

_ROW_PX = 56
_ROOM_FOR_TEXT = 1.3


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyBar:
    """A lane's share of right answers with the ends of its interval; None where nothing was graded."""

    lane: str
    ratio: float | None
    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyBar:
    """A lane's medians."""

    lane: str
    ttft_s: float | None
    e2e_s: float | None


def accuracy_chart(bars: Sequence[AccuracyBar], colors: Mapping[str, str]) -> go.Figure:
    """Share of right answers by lane, 0 to 100 %, with the intervals as whiskers."""
    figure = go.Figure(
        go.Bar(
            x=[bar.ratio for bar in bars],
            # The figure stands beside the name: on or behind the bar the whisker would cross it.
            y=[f"{bar.lane}<br>{bar.text}" for bar in bars],
            orientation="h",
            marker_color=[colors[bar.lane] for bar in bars],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [_distance(bar.ratio, bar.high) for bar in bars],
                "arrayminus": [_distance(bar.low, bar.ratio) for bar in bars],
                "color": "#8a8f98",  # visible on the bars and on both backgrounds
                "thickness": 2,
            },
            hovertemplate="%{y}<extra></extra>",
        )
    )
    figure.update_xaxes(range=[0, 1], tickformat=".0%", fixedrange=True)
    return _laid_out(figure, _("Correct answers (higher is better)"), rows=len(bars))


def latency_chart(bars: Sequence[LatencyBar], colors: Mapping[str, str]) -> go.Figure:
    """Median TTFT and E2E by lane, from zero; E2E is the paler bar."""
    figure = go.Figure()
    for name, opacity, values in (
        ("TTFT", 1.0, [bar.ttft_s for bar in bars]),
        ("E2E", 0.5, [bar.e2e_s for bar in bars]),
    ):
        figure.add_bar(
            name=name,
            x=values,
            y=[bar.lane for bar in bars],
            text=[f"{name} {units.milliseconds(value)}" for value in values],
            textposition="outside",
            orientation="h",
            marker={"color": [colors[bar.lane] for bar in bars], "opacity": opacity},
            cliponaxis=False,
            hovertemplate="%{y}: %{text}<extra></extra>",
        )
    longest = max((bar.e2e_s or bar.ttft_s or 0 for bar in bars), default=0)
    figure.update_xaxes(
        range=[0, _ROOM_FOR_TEXT * longest or 1], nticks=5, tickformat="~s", ticksuffix="s", fixedrange=True
    )
    figure.update_layout(barmode="group", bargroupgap=0.1)
    return _laid_out(figure, _("Medians with images (lower is better)"), rows=len(bars))


def _laid_out(figure: go.Figure, title: str, *, rows: int) -> go.Figure:
    figure.update_yaxes(autorange="reversed", type="category", fixedrange=True)
    figure.update_layout(
        title=title,
        showlegend=False,
        bargap=0.3,
        height=80 + _ROW_PX * rows,
        margin={"l": 0, "r": 24, "t": 36, "b": 0},
    )
    return figure


def _distance(low: float | None, high: float | None) -> float:
    return 0.0 if low is None or high is None else high - low
