"""Build the charts of a turn: first-token time and decode speed per lane. Data in, plotly figure out.

A lane has one colour everywhere, and bars carry its name too, so colour is never the only mark.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from core import units
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
