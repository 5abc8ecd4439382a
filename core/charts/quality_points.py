"""The numbers that a quality run's charts draw."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import plotly.graph_objects as go

from core import units
from core.charts.quality import DifferenceRow, PrefixCurve, TradeOffPoint
from core.i18n import N_, Text, _
from core.quality.results import AgreementScore, LaneQuality, QualityResult, Role
from core.quality.verdict import noise_nats

_ROW_PX = 56
_ROOM_FOR_TEXT = 1.3


class Area(StrEnum):
    """The quantity that a marker's area shows."""

    MEMORY = "memory"
    WEIGHTS = "weights"
    ENERGY = "energy"


AREA_NAMES = {
    Area.MEMORY: N_("Memory"),
    Area.WEIGHTS: N_("Weights"),
    Area.ENERGY: N_("Energy per token"),
}
RIGHT_ANSWERS = ""
"""The measure of the tasks; every other measure is the name of a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """One chart of differences to the reference."""

    key: str
    title: Text
    rows: tuple[DifferenceRow, ...]
    noise: float | None
    is_share: bool


def measures(result: QualityResult) -> tuple[str, ...]:
    """The measures that any lane has a value of: `RIGHT_ANSWERS`, and texts by their names."""
    names = [RIGHT_ANSWERS] if any(lane.tasks and lane.tasks.asked for lane in result.lanes) else []
    names += [
        text.name
        for text in result.plan.texts
        if any((known := lane.text(text.name)) and known.tokens for lane in result.lanes)
    ]
    return tuple(names)


def trade_off_points(result: QualityResult, measure: str, area: Area) -> tuple[TradeOffPoint, ...]:
    return tuple(_trade_off(lane, measure, area) for lane in result.lanes)


def differences(result: QualityResult) -> Iterator[Differences]:
    """Of right answers first, then of each text."""
    others = [lane for lane in result.lanes if lane.role is not Role.REFERENCE]
    reference = result.reference.name
    rows = tuple(row for lane in others if (row := _task_row(lane)))
    if rows:
        yield Differences(
            key="tasks",
            title=N_("Correct answers: difference from {lane}", lane=reference),
            rows=rows,
            noise=None,
            is_share=True,
        )
    for text in result.plan.texts:
        rows = tuple(row for lane in others if (row := _text_row(lane, text.name)))
        if rows:
            yield Differences(
                key=text.name,
                title=N_("{text}, nats per token: difference from {lane}", text=text.name, lane=reference),
                rows=rows,
                noise=noise_nats(result, text.name),
                is_share=False,
            )


def prefix_curves(result: QualityResult) -> tuple[PrefixCurve, ...]:
    """Of every lane with comparable answers, and of the reference against itself."""
    scores: list[tuple[str, AgreementScore | None, bool]] = [
        *((lane.name, lane.agreement, False) for lane in result.lanes),
        (result.reference.name, result.noise, True),
    ]
    return tuple(
        PrefixCurve(
            lane=name,
            prefix_tokens=[agreed.prefix_tokens for agreed in score.agreements.values()],
            lengths=[agreed.longest for agreed in score.agreements.values()],
            is_noise=is_noise,
        )
        for name, score, is_noise in scores
        if score is not None and score.n
    )


def _trade_off(lane: LaneQuality, measure: str, area: Area) -> TradeOffPoint:
    value, low, high = _quality(lane, measure)
    amount, text = _area(lane, area)
    return TradeOffPoint(
        lane=lane.name,
        quality=value,
        low=low,
        high=high,
        tok_per_s=lane.decode_tok_per_s_p50,
        size=amount,
        size_text=text,
        is_reference=lane.role is Role.REFERENCE,
    )


def _quality(lane: LaneQuality, measure: str) -> tuple[float | None, float | None, float | None]:
    if measure == RIGHT_ANSWERS:
        interval = lane.tasks.interval if lane.tasks else None
        value = lane.tasks.accuracy_ratio if lane.tasks else None
        return (value, interval.low, interval.high) if interval else (value, None, None)
    text = lane.text(measure)
    if text is None or text.nats_per_token is None:
        return None, None, None
    if text.difference is None or text.difference.interval is None:
        return text.nats_per_token, None, None
    # Of the difference to the reference: what both lanes share is no uncertainty of the comparison.
    base = text.nats_per_token - text.difference.value
    interval = text.difference.interval
    return text.nats_per_token, base + interval.low, base + interval.high


def _area(lane: LaneQuality, area: Area) -> tuple[float | None, str]:
    if area is Area.ENERGY:
        return lane.energy_j_per_token, units.joules(lane.energy_j_per_token)
    size = lane.memory_bytes if area is Area.MEMORY else lane.facts.weight_bytes
    return size, units.gib(size)


def _task_row(lane: LaneQuality) -> DifferenceRow | None:
    test = lane.tasks.difference if lane.tasks else None
    if test is None:
        return None
    return DifferenceRow(
        lane=lane.name,
        value=test.difference_ratio,
        low=test.interval.low if test.interval else None,
        high=test.interval.high if test.interval else None,
        text=units.percent(test.difference_ratio),
    )


def _text_row(lane: LaneQuality, name: str) -> DifferenceRow | None:
    text = lane.text(name)
    if text is None or text.difference is None:
        return None
    interval = text.difference.interval
    return DifferenceRow(
        lane=lane.name,
        value=text.difference.value,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        text=units.nats_apart(text.difference.value),
    )


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
