"""What the machine did while an answer was made: memory, power and energy, on demand."""

import streamlit as st

from core import units
from core.domain.runs import RequestRecord, UsageWindow
from core.ui.components import escape


def usage_control(record: RequestRecord) -> None:
    """A popover with the request's window; nothing for an answer that has none."""
    if record.window is None:
        return
    with st.popover(
        "Memory and energy",
        icon=":material/memory:",
        type="tertiary",
        key=f"usage_{record.id}",
        help="Sampled ten times a second while the request ran. n = 1 request.",
    ):
        _show(record, record.window)


def _show(record: RequestRecord, window: UsageWindow) -> None:
    if window.shared:
        st.caption(f":orange-badge[shared] with {escape(', '.join(window.others))}: not this lane's alone.")
    above_idle = window.idle_power_w is not None and st.toggle(
        "Without idle power",
        key=f"idle_{record.id}",
        help=f"Takes off what the GPUs drew just before: {units.watts(window.idle_power_w)}.",
    )
    energy_j = window.energy_above_idle_j if above_idle else window.energy_j
    per_token = record.energy_above_idle_j_per_token if above_idle else record.energy_j_per_token
    rows = {
        "Energy": units.joules(energy_j),
        "Energy for an output token": units.joules(per_token),
        "Mean power": units.watts(window.mean_power_w),
        "Idle power": units.watts(window.idle_power_w),
        "Peak GPU memory, this engine": units.gib(window.peak_gpu_bytes),
        "Peak GPU memory, all": units.gib(window.peak_used_bytes),
        "Peak resident memory": units.gib(window.peak_resident_bytes),
        "CPU cores at work": units.UNKNOWN
        if window.mean_cpu_ratio is None
        else f"{window.mean_cpu_ratio:.1f}",
    }
    st.markdown("  \n".join(f"{name}: **{value}**" for name, value in rows.items()))
    if window.energy_gap:
        st.caption(f"No energy: {escape(window.energy_gap)}")
