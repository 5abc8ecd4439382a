"""What a memory sweep measured: a chart of its points, and their values."""

import streamlit as st

from core import units
from core.charts.memory import SweepBar, sweep_chart
from core.codec import encode_plain
from core.i18n import _
from core.memory_sweep.results import SweepRun
from core.ui.shared.components import escape
from core.ui.shared.visitor import exporting


def show_points(key: str, run: SweepRun, *, export: bool = False) -> None:
    """The chart and the values of the points measured so far."""
    st.caption(f"{escape(run.gpu_name)} · {escape(run.engine_version or units.UNKNOWN)}")
    bars = [
        SweepBar(
            name=result.point.label,
            predicted_bytes=result.predicted_bytes,
            measured_bytes=result.measured_bytes,
        )
        for result in run.points
        if result.predicted_bytes is not None
    ]
    st.plotly_chart(
        sweep_chart(bars, _("GPU memory of the engine, GiB")),
        key=f"sweep_{key}",
        config={"displayModeBar": False},
        alt=_("Predicted and measured memory of each point; values below"),
    )
    error = _("Error")
    names = (
        _("Point"),
        _("KV cache (log)"),
        error,
        _("Tokens"),
        error,
        _("Memory (NVML)"),
        error,
    )
    head = [f"| {' | '.join(names)} |", "|:--|--:|--:|--:|--:|--:|--:|"]
    rows = [
        f"| {escape(r.point.label)} | {units.gib(r.log_kv_bytes)} | {units.percent(r.kv_error_ratio)} "
        f"| {units.count(r.log_kv_tokens)} | {units.percent(r.tokens_error_ratio)} "
        f"| {units.gib(r.measured_bytes)} | {units.percent(r.total_error_ratio)} |"
        for r in run.points
    ]
    with st.expander(_("Values"), icon=":material/table:"):
        st.markdown("\n".join(head + rows))
        st.caption(_("Error: predicted divided by measured, minus 1."))
    if export:
        st.download_button(
            _("Export JSON"),
            exporting(f"sweep {run.plan.id}", lambda: encode_plain(run)),
            file_name=f"sweep-{run.plan.id}.json",
            mime="application/json",
            icon=":material/download:",
            key=f"export_{key}",
            on_click="ignore",
        )
    for result in run.points:
        if result.error:
            text = _("{name}: {value}", name=result.point.label, value=result.error.message)
            st.caption(f":orange[:material/error:] {escape(text)}")
