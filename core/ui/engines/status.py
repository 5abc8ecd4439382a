"""How the lanes' engines are: a line each in the sidebar, a card each where there is something to do."""

import streamlit as st

from core import units
from core.domain.specs import LaneSpec
from core.engines.manager import EngineStatus
from core.engines.registry import EngineState
from core.ui.engines import actions as engine_actions
from core.ui.shared import resources
from core.ui.shared.components import describe_lane, escape, lane_label, sentence, show_error

REFRESH_S = 1.0
STATE_BADGES = {
    EngineState.STARTING: ":orange-badge[:material/hourglass_top: starting]",
    EngineState.HEALTHY: ":green-badge[:material/check: ready]",
    EngineState.STOPPING: ":gray-badge[:material/hourglass_bottom: stopping]",
    EngineState.STOPPED: ":gray-badge[:material/power_settings_new: stopped]",
    EngineState.FAILED: ":red-badge[:material/error: failed]",
}


@st.fragment(run_every=REFRESH_S)
def show_overview() -> None:
    """All lanes in short; refreshes itself."""
    with st.container(gap="xsmall"):
        for lane in resources.lanes().lanes:
            st.markdown(f"{lane_label(lane.name)} {_badge(lane)}")


@st.fragment(run_every=REFRESH_S)
def show_cards(lanes: list[str]) -> None:
    """Those of the lanes whose engine is not ready, with what it does or what can be done; else nothing."""
    waiting = [
        status
        for status in resources.manager().statuses()
        if status.name in lanes and status.state is not EngineState.HEALTHY
    ]
    if not waiting:
        return
    with st.grid(len(waiting), min_column_width=300):
        for status in waiting:
            with st.container(border=True):
                _show_card(status)


def _badge(lane: LaneSpec) -> str:
    if not lane.is_local:
        return ":blue-badge[:material/cloud: endpoint]"
    status = resources.manager().status(lane.name)
    return STATE_BADGES[status.state] + (" · busy" if status.in_use else "")


def show_log(name: str) -> None:
    with st.expander("Engine log", icon=":material/article:"):
        st.code(resources.manager().log_tail(name) or "The log is empty.", language=None, height=240)


def _show_card(status: EngineStatus) -> None:
    st.markdown(f"{lane_label(status.name)} {STATE_BADGES[status.state]}")
    st.caption(describe_lane(status.lane))
    if status.state is EngineState.STARTING:
        st.markdown(f":shimmer[{sentence(status.stage or 'starting')}] · {units.duration(status.elapsed_s)}")
        if status.last_log_line:
            st.caption(escape(status.last_log_line))
    elif status.state is EngineState.FAILED:
        if status.error:
            show_error(status.error)
        show_log(status.name)
        _start_button(status, "Start again")
    elif status.state is EngineState.STOPPED:
        if not show_unfit(status.lane):
            st.caption("It starts with the first prompt.")
        _start_button(status, "Start now")


def show_unfit(lane: LaneSpec) -> bool:
    """Why the lane can't run on this machine and what to do; False, and nothing, if it can."""
    reason = resources.unfit(lane)
    if reason is None:
        return False
    st.info(f"{escape(reason.message)}\n\n{escape(reason.hint)}", icon=":material/info:")
    return True


def _start_button(status: EngineStatus, label: str) -> None:
    st.button(
        label,
        icon=":material/restart_alt:",
        key=f"start_{status.name}",
        on_click=engine_actions.restart,
        args=(status.name,),
    )
