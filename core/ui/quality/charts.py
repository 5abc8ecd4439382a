"""The charts of a quality run: trade-off, differences to the reference, and how long answers agree."""

import streamlit as st

from core import units
from core.charts.quality import (
    DifferenceRow,
    PrefixCurve,
    TradeOffPoint,
    difference_chart,
    prefix_chart,
    trade_off_chart,
)
from core.i18n import _
from core.quality.results import AgreementScore, LaneQuality, QualityResult, Role
from core.quality.verdict import noise_nats
from core.ui.shared.components import color_of

_QUIET = {"displayModeBar": False}


def show_charts(result: QualityResult) -> None:
    colors = {lane.name: color_of(lane.name) for lane in result.lanes}
    measures = _measures(result)
    if measures:
        left, right = st.columns(2)
        measure = left.segmented_control(
            _("Quality"), measures, default=measures[0], required=True, key=f"measure_{result.run.id}"
        )
        size = right.segmented_control(
            _("Area"),
            list(_sizes()),
            default=next(iter(_sizes())),
            required=True,
            key=f"size_{result.run.id}",
        )
        st.plotly_chart(
            trade_off_chart(
                [_trade_off(lane, measure, size) for lane in result.lanes],
                colors,
                quality=measure,
                size=size,
                is_share=measure == _right_answers(),
            ),
            key=f"trade_off_{result.run.id}",
            config=_QUIET,
            alt=_("Quality against decode speed by lane; the table above has the figures"),
        )
    with st.grid(2, min_column_width=320):
        _show_differences(result, colors)
        _show_prefixes(result, colors)


def _right_answers() -> str:
    return _("Right answers")


def _measures(result: QualityResult) -> list[str]:
    found = [_right_answers()] if any(lane.tasks for lane in result.lanes) else []
    return found + [text.name for text in result.plan.texts if _is_known(result, text.name)]


def _is_known(result: QualityResult, text: str) -> bool:
    return any((found := lane.text(text)) and found.nats_per_token is not None for lane in result.lanes)


def _sizes() -> dict[str, str]:
    return {_("Memory"): "memory", _("Weights"): "weights", _("Energy per token"): "energy"}


def _trade_off(lane: LaneQuality, measure: str, size: str) -> TradeOffPoint:
    value: float | None = None
    low: float | None = None
    high: float | None = None
    if measure == _right_answers():
        value = lane.tasks.accuracy_ratio if lane.tasks else None
        interval = lane.tasks.interval if lane.tasks else None
        low, high = (interval.low, interval.high) if interval else (None, None)
    elif text := lane.text(measure):
        value = text.nats_per_token
        apart = text.difference.interval if text.difference else None
        if value is not None and apart is not None and text.difference is not None:
            # Of the difference to the reference: what both lanes share is no uncertainty of the comparison.
            low, high = (value - text.difference.value + end for end in (apart.low, apart.high))
    sizes = {
        "memory": (lane.memory_bytes, units.gib(lane.memory_bytes)),
        "weights": (lane.facts.weight_bytes, units.gib(lane.facts.weight_bytes)),
        "energy": (lane.energy_j_per_token, units.joules(lane.energy_j_per_token)),
    }
    amount, text_of_amount = sizes[_sizes()[size]]
    return TradeOffPoint(
        lane=lane.name,
        quality=value,
        low=low,
        high=high,
        tok_per_s=lane.decode_tok_per_s_p50,
        size=amount,
        size_text=text_of_amount,
        is_reference=lane.role is Role.REFERENCE,
    )


def _show_differences(result: QualityResult, colors: dict[str, str]) -> None:
    others = [lane for lane in result.lanes if lane.role is not Role.REFERENCE]
    if any(lane.tasks and lane.tasks.difference for lane in others):
        rows = []
        for lane in others:
            test = lane.tasks.difference if lane.tasks else None
            rows.append(
                DifferenceRow(
                    lane=lane.name,
                    value=test.difference_ratio if test else None,
                    low=test.interval.low if test and test.interval else None,
                    high=test.interval.high if test and test.interval else None,
                    text=units.percent(test.difference_ratio) if test else units.UNKNOWN,
                )
            )
        title = _("Right answers, difference to {lane}", lane=result.reference.name)
        _draw_differences(result, rows, colors, title, None, is_share=True)
    for text in result.plan.texts:
        known = [(lane, found) for lane in others if (found := lane.text(text.name)) and found.difference]
        rows = [
            DifferenceRow(
                lane=lane.name,
                value=found.difference.value,
                low=found.difference.interval.low if found.difference.interval else None,
                high=found.difference.interval.high if found.difference.interval else None,
                text=units.nats_apart(found.difference.value),
            )
            for lane, found in known
            if found.difference
        ]
        if rows:
            title = _(
                "{text}, nats per token: difference to {lane}", text=text.name, lane=result.reference.name
            )
            _draw_differences(result, rows, colors, title, noise_nats(result, text.name), is_share=False)


def _draw_differences(
    result: QualityResult,
    rows: list[DifferenceRow],
    colors: dict[str, str],
    title: str,
    noise: float | None,
    *,
    is_share: bool,
) -> None:
    st.plotly_chart(
        difference_chart(rows, colors, title=title, noise=noise, is_share=is_share),
        key=f"difference_{result.run.id}_{title}",
        config=_QUIET,
        alt=_("{title}; the table above has the figures", title=title),
    )


def _show_prefixes(result: QualityResult, colors: dict[str, str]) -> None:
    curves = [
        PrefixCurve(lane=name, prefix_tokens=prefixes, lengths=lengths, is_noise=is_noise)
        for name, score, is_noise in [
            *((lane.name, lane.agreement, False) for lane in result.lanes),
            (result.reference.name, result.noise, True),
        ]
        if score and score.n
        for prefixes, lengths in [_prefixes(score)]
    ]
    if curves:
        st.plotly_chart(
            prefix_chart(curves, colors),
            key=f"prefix_{result.run.id}",
            config=_QUIET,
            alt=_("Share of answers that still equal the reference's, by their length in tokens"),
        )


def _prefixes(score: AgreementScore) -> tuple[list[int], list[int]]:
    agreements = score.agreements.values()
    return [each.prefix_tokens for each in agreements], [each.longest for each in agreements]
