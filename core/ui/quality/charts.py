"""The charts of a quality run: trade-off, differences to the reference, and how long answers agree."""

import streamlit as st

from core.charts.quality import difference_chart, prefix_chart, trade_off_chart
from core.charts.quality_points import (
    AREA_NAMES,
    RIGHT_ANSWERS,
    Area,
    differences,
    measures,
    prefix_curves,
    trade_off_points,
)
from core.i18n import _
from core.quality.results import QualityResult
from core.ui.shared.components import color_of

_QUIET = {"displayModeBar": False}


def show_charts(result: QualityResult) -> None:
    """All charts that the run has the figures for."""
    colors = {lane.name: color_of(lane.name) for lane in result.lanes}
    run_id = result.run.id
    known = measures(result)
    if known:
        left, right = st.columns(2)
        measure = left.segmented_control(
            _("Quality"),
            known,
            default=known[0],
            format_func=measure_name,
            required=True,
            key=f"measure_{run_id}",
        )
        area = right.segmented_control(
            _("Area"),
            list(Area),
            default=Area.MEMORY,
            format_func=lambda area: _(AREA_NAMES[area]),
            required=True,
            key=f"area_{run_id}",
            help=_("Memory includes the KV cache that the engine reserves."),
        )
        st.plotly_chart(
            trade_off_chart(
                trade_off_points(result, measure, area),
                colors,
                quality=measure_name(measure),
                size=_(AREA_NAMES[area]),
                is_share=measure == RIGHT_ANSWERS,
            ),
            key=f"trade_off_{run_id}",
            config=_QUIET,
            alt=_("Quality against decode speed by lane; values in the table above"),
        )
    with st.grid(2, min_column_width=320):
        for chart in differences(result):
            title = _(chart.title)
            st.plotly_chart(
                difference_chart(chart.rows, colors, title=title, noise=chart.noise, is_share=chart.is_share),
                key=f"difference_{run_id}_{chart.key}",
                config=_QUIET,
                alt=_("{title}; values in the table above", title=title),
            )
        if curves := prefix_curves(result):
            st.plotly_chart(
                prefix_chart(curves, colors),
                key=f"prefix_{run_id}",
                config=_QUIET,
                alt=_("Share of answers still identical to the reference, by length in tokens"),
            )


def measure_name(measure: str) -> str:
    return measure if measure != RIGHT_ANSWERS else _("Correct answers")
