"""The charts of a session: strengths with intervals, and quality beside a measured figure.

Data → plotly Figure. Knows nothing of votes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

_ROW_PX = 52
_LARGE_FONT = 20
_WHISKER = "#8a8f98"
"""Visible on white and on near-black."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StrengthBar:
    """One lane's strength with the ends of its interval; only lanes whose strength is known."""

    lane: str
    points: float
    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TradeOffPoint:
    """One lane's quality and a measured figure; only lanes where both are known."""

    lane: str
    value: float
    points: float
    low: float | None
    high: float | None


def strengths_chart(
    bars: Sequence[StrengthBar], colors: Mapping[str, str], *, title: str, large: bool = False
) -> go.Figure:
    """Strengths from the highest down, as dots with whiskers around the mean of the lanes."""
    ordered = sorted(bars, key=lambda bar: bar.points)
    figure = go.Figure(
        go.Scatter(
            x=[bar.points for bar in ordered],
            y=[f"{bar.lane}<br>{bar.text}" for bar in ordered],
            mode="markers",
            marker={"size": 18 if large else 12, "color": [colors[bar.lane] for bar in ordered]},
            error_x=_whiskers(ordered, thickness=4 if large else 2),
            hovertemplate="%{y}<extra></extra>",
            cliponaxis=False,
        )
    )
    figure.add_vline(x=0, line={"width": 1, "dash": "dot", "color": _WHISKER})
    figure.update_xaxes(fixedrange=True, zeroline=False, title=title)
    figure.update_yaxes(fixedrange=True, automargin=True)
    figure.update_layout(
        height=(1.6 if large else 1) * _ROW_PX * len(ordered) + 90,
        margin={"l": 10, "r": 20, "t": 10, "b": 10},
        showlegend=False,
    )
    if large:
        # Of each axis: Streamlit's theme sets these itself.
        for axes in (figure.update_xaxes, figure.update_yaxes):
            axes(tickfont_size=_LARGE_FONT, title_font_size=_LARGE_FONT)
    return figure


def trade_off_chart(
    points: Sequence[TradeOffPoint], colors: Mapping[str, str], *, x_title: str, y_title: str, x_format: str
) -> go.Figure:
    """Quality upwards and a figure to the right, one dot with its interval for each lane."""
    figure = go.Figure()
    for point in points:
        figure.add_scatter(
            x=[point.value],
            y=[point.points],
            name=point.lane,
            text=[point.lane],
            mode="markers+text",
            textposition="top right",
            marker={"size": 14, "color": colors[point.lane]},
            error_y=_whiskers([point], thickness=2),
            hovertemplate="%{text}<br>%{x}<br>%{y:.0f}<extra></extra>",
            cliponaxis=False,
        )
    figure.update_xaxes(title=x_title, rangemode="tozero", tickformat=x_format, fixedrange=True)
    figure.update_yaxes(title=y_title, zeroline=False, fixedrange=True)
    figure.update_layout(height=360, margin={"l": 10, "r": 60, "t": 20, "b": 10}, showlegend=False)
    return figure


def _whiskers(marks: Sequence[StrengthBar | TradeOffPoint], *, thickness: int) -> dict[str, object]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [0 if mark.high is None else mark.high - mark.points for mark in marks],
        "arrayminus": [0 if mark.low is None else mark.points - mark.low for mark in marks],
        "color": _WHISKER,
        "thickness": thickness,
    }
