"""The state of the lanes' engines, and what the buttons about engines and lanes do.

A line each in the sidebar, a card each where there is something to do. The actions are widget callbacks or
called after a form.
"""

from dataclasses import replace

import streamlit as st

from core import units
from core.access.guard import Action, may
from core.chat_api.servers import Reach
from core.config import forget_lane, save_lane
from core.domain.specs import Endpoint, EngineSettings, LaneSpec
from core.engines.manager import EngineStatus
from core.engines.registry import STATE_NAMES, EngineState
from core.engines.resolve import find_endpoint
from core.engines.supervisor import STARTING
from core.i18n import _
from core.ui.shared import resources
from core.ui.shared.components import describe_lane, errors_as_toasts, escape, lane_label, prose, show_error

REFRESH_S = 1.0
_BADGES = {
    EngineState.STARTING: ("orange", "hourglass_top"),
    EngineState.HEALTHY: ("green", "check"),
    EngineState.STOPPING: ("gray", "hourglass_bottom"),
    EngineState.STOPPED: ("gray", "power_settings_new"),
    EngineState.FAILED: ("red", "error"),
}

_REMOVED = "removed_lane"


def show_overview(*, refreshes: bool) -> None:
    """All lanes in short."""
    st.fragment(_show_lanes, run_every=REFRESH_S if refreshes else None)()


def _show_lanes() -> None:
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
        return reach_badge(reach_of(lane))
    status = resources.manager().status(lane.name)
    if status.finishing_s is not None:
        return finishing_badge()
    return state_badge(status.state) + (f" · {_('in use')}" if status.in_use else "")


def state_badge(state: EngineState) -> str:
    color, icon = _BADGES[state]
    return f":{color}-badge[:material/{icon}: {_(STATE_NAMES[state])}]"


def reach_of(lane: LaneSpec) -> Reach | None:
    """Whether an endpoint's server answers; None before its first answer. Never waits for the server."""

    def endpoint() -> Endpoint:
        endpoint = find_endpoint(resources.settings(), lane)
        assert endpoint is not None  # only a local engine may still be starting
        return endpoint

    return resources.reachability().of(lane.name, endpoint)


def reach_badge(reach: Reach | None) -> str:
    if reach is None:
        return f":gray-badge[:material/hourglass_top: {_('connecting')}]"
    if reach.error:
        return f":red-badge[:material/cloud_off: {_('unreachable')}]"
    return f":green-badge[:material/cloud_done: {_('reachable')}]"


def finishing_badge() -> str:
    """For an engine that still computes for a request that was stopped."""
    return f":orange-badge[:material/hourglass_bottom: {_('finishing a stopped request')}]"


def show_lane(status: EngineStatus) -> None:
    """The lane in words, with its node."""
    parts = [describe_lane(status.lane)]
    if status.node:
        parts.append(_("node {node}", node=escape(status.node)))
    st.caption(" · ".join(parts))


def show_log(name: str) -> None:
    """The end of an engine's log; for operators, since it can hold what others asked."""
    if not may(Action.CHANGE_LANE):
        return
    with st.expander(_("Engine log"), icon=":material/article:"):
        st.code(resources.manager().log_tail(name) or _("The log is empty."), language=None, height=240)


def show_stage(status: EngineStatus) -> None:
    """The stage of an engine that is starting, and for how long."""
    stage = escape(_(status.stage or STARTING))
    st.markdown(f":shimmer[{stage}] · {units.duration(status.elapsed_s)}")


def _show_card(status: EngineStatus) -> None:
    st.markdown(f"{lane_label(status.name)} {state_badge(status.state)}")
    show_lane(status)
    if status.state is EngineState.STARTING:
        show_stage(status)
        if status.last_log_line:
            st.caption(escape(status.last_log_line))
    elif status.state is EngineState.FAILED:
        if status.error:
            show_error(status.error)
        show_log(status.name)
        start_button(status, _("Start again"))
    elif status.state is EngineState.STOPPED:
        if not show_unfit(status.lane):
            st.caption(_("Starts with the first prompt."))
        start_button(status, _("Start now"))


def show_unfit(lane: LaneSpec) -> bool:
    """The reason why the lane can't run on this machine, with a hint; False, and nothing, if it can."""
    reason = resources.unfit(lane)
    if reason is None:
        return False
    st.info(f"{prose(_(reason.message))}\n\n{prose(_(reason.hint))}", icon=":material/info:")
    return True


def start_button(
    status: EngineStatus, label: str, *, icon: str = ":material/restart_alt:", key: str = "start"
) -> None:
    """Nothing for who may not start engines; `key` is a prefix of the button's key."""
    if not may(Action.RESTART_ENGINE):
        return
    st.button(
        label,
        icon=icon,
        key=f"{key}_{status.name}",
        on_click=restart,
        args=(status.name,),
    )


def start(name: str) -> None:
    with errors_as_toasts():
        resources.manager().ensure(name)


def stop(name: str) -> None:
    """Stop the lane's engine; one in use says so and goes on."""
    with errors_as_toasts():
        resources.manager().stop(name)


def restart(name: str) -> None:
    """Start the lane's engine again, whatever state it is in; one in use says so and goes on."""
    with errors_as_toasts():
        resources.manager().restart(name)


def add(lane: LaneSpec) -> None:
    """Add the lane for every session and for the command line."""
    with errors_as_toasts():
        keep_lane(lane)


def read_lanes_again() -> None:
    """After something else changed what they are made of; those that can't be read stay as they were."""
    with errors_as_toasts():
        resources.resources().reload_lanes()


def keep_lane(lane: LaneSpec) -> None:
    """Add a lane, or change one, for every session and for the command line. Raises ConfigError."""
    dashboard = resources.resources()
    save_lane(dashboard.settings, lane)
    dashboard.reload_lanes()
    resources.reachability().forget(lane.name)


def change_settings(lane: LaneSpec, settings: EngineSettings) -> None:
    """Keep new settings; a running engine is started anew with them, unless in use. Raises ConfigError."""
    status = resources.manager().status(lane.name)
    keep_lane(replace(lane, settings=settings))
    if status.state in (EngineState.STARTING, EngineState.HEALTHY):
        restart(lane.name)


def forget(lane: LaneSpec) -> None:
    """Undo what the dashboard kept of a lane; `removed` is how it was."""
    dashboard = resources.resources()
    with errors_as_toasts():
        if forget_lane(dashboard.settings, lane.name):
            st.session_state[_REMOVED] = lane
        dashboard.reload_lanes()
        resources.reachability().forget(lane.name)


def removed() -> LaneSpec | None:
    """The lane that this session removed last and can bring back."""
    lane: LaneSpec | None = st.session_state.get(_REMOVED)
    return lane


def bring_back(lane: LaneSpec) -> None:
    """Undo `forget`."""
    with errors_as_toasts():
        keep_lane(lane)
        st.session_state.pop(_REMOVED, None)
