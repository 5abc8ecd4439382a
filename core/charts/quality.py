"""Charts of quality: what tasks and texts say of lanes, and what the people of a session say.

They show quality against speed or another measured figure, differences to the reference, agreement over the
length of answers, and strengths. They know numbers by lane, nothing of runs and votes. Whiskers are 95 %
intervals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from core import units
from core.i18n import _

_ROW_PX = 48
_ROOM_FOR_NAMES = 1.3
_WHISKER = "#8a8f98"
"""Visible on both backgrounds."""
_SMALLEST_PX, _LARGEST_PX = 14, 52


@dataclass(frozen=True, slots=True, kw_only=True)
class TradeOffPoint:
    """One lane: how good and how fast it is; `size` is memory or energy. None where unknown."""

    lane: str
    quality: float | None
    low: float | None = None
    high: float | None = None
    tok_per_s: float | None
    size: float | None = None
    size_text: str = ""
    is_reference: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferenceRow:
    """A lane's difference to the reference."""

    lane: str
    value: float | None
    low: float | None = None
    high: float | None = None
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixCurve:
    """Of each answer how many tokens from the start equal the reference's, and how long it is."""

    lane: str
    prefix_tokens: Sequence[int]
    lengths: Sequence[int]
    is_noise: bool = False
    """The reference against its own second answers."""


def trade_off_chart(
    points: Sequence[TradeOffPoint],
    colors: Mapping[str, str],
    *,
    quality: str,
    size: str,
    is_share: bool,
) -> go.Figure:
    """Quality over decode speed, the marker's area by memory or energy; up and to the right is better.

    `quality` and `size` name the axis and what the area stands for. Of `is_share` more is better, drawn in
    per cent; otherwise less is better and the axis is reversed.
    """
    largest = max((point.size for point in points if point.size), default=None)
    fastest = max((point.tok_per_s for point in points if point.tok_per_s), default=1.0)
    figure = go.Figure()
    for point in points:
        if point.quality is None or point.tok_per_s is None:
            continue
        figure.add_scatter(
            x=[point.tok_per_s],
            y=[point.quality],
            name=point.lane,
            mode="markers+text",
            # Apart from the corner of the diamond, which is further out than a circle of its size.
            text=[
                "\N{EN SPACE}" + _("{lane} (reference)", lane=point.lane)
                if point.is_reference
                else point.lane
            ],
            # Above or below, the whisker would cross it.
            textposition="middle right",
            marker={
                "color": colors[point.lane],
                "size": _marker_px(point.size, largest),
                "opacity": 0.75,
                "symbol": "diamond" if point.is_reference else "circle",
                "line": {"width": 1, "color": _WHISKER},
            },
            error_y=_whisker(point.quality, point.low, point.high),
            customdata=[[units.tok_per_s(point.tok_per_s), point.size_text or units.UNKNOWN]],
            hovertemplate=f"{point.lane}<br>%{{y}}<br>%{{customdata[0]}}<br>{size}: %{{customdata[1]}}"
            "<extra></extra>",
            cliponaxis=False,
        )
    figure.update_xaxes(
        title=_("Decode speed p50, tok/s (higher is better)"),
        range=[0, _ROOM_FOR_NAMES * fastest],
        fixedrange=True,
    )
    figure.update_yaxes(
        title=_("{measure} (higher is better)", measure=quality)
        if is_share
        else _("{measure} (lower is better)", measure=quality),
        tickformat=".0%" if is_share else None,
        autorange=None if is_share else "reversed",
        fixedrange=True,
    )
    figure.update_layout(
        title=_("Quality against speed; area: {size}", size=size),
        showlegend=False,
        height=420,
        margin={"l": 0, "r": 24, "t": 48, "b": 0},
    )
    return figure


def difference_chart(
    rows: Sequence[DifferenceRow],
    colors: Mapping[str, str],
    *,
    title: str,
    noise: float | None,
    is_share: bool,
) -> go.Figure:
    """Differences to the reference by lane with their intervals; the band around 0 is numerical noise."""
    figure = go.Figure(
        go.Scatter(
            x=[row.value for row in rows],
            y=[f"{row.lane}<br>{row.text}" for row in rows],
            mode="markers",
            marker={"color": [colors[row.lane] for row in rows], "size": 14},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [_distance(row.value, row.high) for row in rows],
                "arrayminus": [_distance(row.low, row.value) for row in rows],
                "color": _WHISKER,
                "thickness": 2,
            },
            hovertemplate="%{y}<extra></extra>",
            cliponaxis=False,
        )
    )
    if noise:
        figure.add_vrect(x0=-noise, x1=noise, fillcolor=_WHISKER, opacity=0.25, line_width=0)
    figure.add_vline(x=0, line_width=1, line_color=_WHISKER)
    figure.update_xaxes(tickformat="+.0%" if is_share else "+.3~f", nticks=6, fixedrange=True)
    figure.update_yaxes(autorange="reversed", type="category", fixedrange=True)
    figure.update_layout(
        title=title,
        showlegend=False,
        height=96 + _ROW_PX * len(rows),
        margin={"l": 0, "r": 24, "t": 40, "b": 0},
    )
    return figure


def prefix_chart(curves: Sequence[PrefixCurve], colors: Mapping[str, str]) -> go.Figure:
    """The estimated share of answers that still equal the reference's after so many tokens."""
    figure = go.Figure()
    for curve in curves:
        longest = max(curve.lengths, default=0)
        figure.add_scatter(
            x=list(range(longest + 1)),
            y=_still_equal(curve, longest),
            name=_("{lane}, asked again", lane=curve.lane) if curve.is_noise else curve.lane,
            mode="lines",
            line={
                "color": _WHISKER if curve.is_noise else colors[curve.lane],
                "dash": "dot" if curve.is_noise else "solid",
                "shape": "hv",
                "width": 2.5,
            },
            hovertemplate=_("{lane}: %{{y:.0%}} after %{{x}} tokens", lane=curve.lane) + "<extra></extra>",
        )
    figure.update_xaxes(title=_("Tokens"), rangemode="tozero", fixedrange=True)
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%", fixedrange=True)
    figure.update_layout(
        title=_("Answers still identical to the reference"),
        height=360,
        margin={"l": 0, "r": 24, "t": 48, "b": 0},
        legend={"orientation": "h", "y": -0.25},
    )
    return figure


def _still_equal(curve: PrefixCurve, longest: int) -> list[float]:
    """The share after each number of tokens, by Kaplan and Meier's estimator.

    An identical answer that ends says nothing about later tokens, so from there on it is left out; a plain
    share of those that are left would rise again.
    """
    share, shares = 1.0, [1.0]
    answers = list(zip(curve.prefix_tokens, curve.lengths, strict=True))
    for place in range(longest):
        at_risk = sum(prefix >= place and length > place for prefix, length in answers)
        parted = sum(prefix == place < length for prefix, length in answers)
        share *= 1 - parted / at_risk if at_risk else 1
        shares.append(share)
    return shares


def _marker_px(size: float | None, largest: float | None) -> float:
    """By area, so that twice the memory is twice the ink; the smallest size where it is unknown."""
    if not size or not largest:
        return _SMALLEST_PX
    return float(max(_SMALLEST_PX, _LARGEST_PX * (size / largest) ** 0.5))


def _whisker(value: float, low: float | None, high: float | None) -> dict[str, object]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [_distance(value, high)],
        "arrayminus": [_distance(low, value)],
        "color": _WHISKER,
        "thickness": 2,
    }


def _distance(low: float | None, high: float | None) -> float:
    return 0.0 if low is None or high is None else high - low


_STRENGTH_ROW_PX = 52
_LARGE_FONT = 20

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
class PreferencePoint:
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
            error_x=_strength_whiskers(ordered, thickness=4 if large else 2),
            hovertemplate="%{y}<extra></extra>",
            cliponaxis=False,
        )
    )
    figure.add_vline(x=0, line={"width": 1, "dash": "dot", "color": _WHISKER})
    figure.update_xaxes(fixedrange=True, zeroline=False, title=title)
    figure.update_yaxes(fixedrange=True, automargin=True)
    figure.update_layout(
        height=(1.6 if large else 1) * _STRENGTH_ROW_PX * len(ordered) + 90,
        margin={"l": 10, "r": 20, "t": 10, "b": 10},
        showlegend=False,
    )
    if large:
        # Of each axis: Streamlit's theme sets these itself.
        for axes in (figure.update_xaxes, figure.update_yaxes):
            axes(tickfont_size=_LARGE_FONT, title_font_size=_LARGE_FONT)
    return figure


def preference_chart(
    points: Sequence[PreferencePoint], colors: Mapping[str, str], *, x_title: str, y_title: str, x_format: str
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
            error_y=_strength_whiskers([point], thickness=2),
            hovertemplate="%{text}<br>%{x}<br>%{y:.0f}<extra></extra>",
            cliponaxis=False,
        )
    figure.update_xaxes(title=x_title, rangemode="tozero", tickformat=x_format, fixedrange=True)
    figure.update_yaxes(title=y_title, zeroline=False, fixedrange=True)
    figure.update_layout(height=360, margin={"l": 10, "r": 60, "t": 20, "b": 10}, showlegend=False)
    return figure


def _strength_whiskers(
    marks: Sequence[StrengthBar | PreferencePoint], *, thickness: int
) -> dict[str, object]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [0 if mark.high is None else mark.high - mark.points for mark in marks],
        "arrayminus": [0 if mark.low is None else mark.points - mark.low for mark in marks],
        "color": _WHISKER,
        "thickness": thickness,
    }
