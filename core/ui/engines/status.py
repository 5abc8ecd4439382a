"""The state of engines, cluster nodes and this machine, and what the buttons about engines and lanes do.

A line each in the sidebar, a card each where there is something to do. The actions are widget callbacks or
called after a form.
"""

from collections.abc import Sequence
from dataclasses import replace

import streamlit as st

from core import units
from core.access.guard import Action, may
from core.chat_api.servers import Reach
from core.cluster.findings import examine_all
from core.config import forget_lane, save_lane
from core.doctor.fitness import Diagnosis, Finding, Status
from core.domain.specs import Endpoint, EngineSettings, LaneSpec
from core.engines.manager import EngineStatus
from core.engines.registry import STATE_NAMES, EngineState
from core.engines.resolve import ClusterSnapshot, Node, find_endpoint, read_snapshot, trouble
from core.engines.supervisor import STARTING
from core.i18n import _, ngettext
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
_DIAGNOSIS = "doctor_diagnosis"
_MARKS = {
    Status.OK: ":green[:material/check_circle:]",
    Status.INFO: ":blue[:material/info:]",
    Status.WARN: ":orange[:material/warning:]",
    Status.FAIL: ":red[:material/error:]",
}
_MOST_NAMES = 4
"""Engines that are named in a node's row."""


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


@st.fragment(run_every=REFRESH_S)
def show_nodes() -> None:
    """Nothing without `[cluster]` in the lanes file."""
    if resources.lanes().cluster is None:
        st.empty()
        return
    st.subheader(_("Nodes"), anchor=False)
    snapshot = read_snapshot(resources.settings())
    if problem := trouble(snapshot):
        show_error(problem)
    if snapshot is None or not snapshot.nodes:
        if problem is None:
            st.caption(_("Waiting for the first answer of the cluster."))
        return
    nodes = sorted(snapshot.nodes, key=lambda node: node.name)
    st.table(
        {
            _("Node"): [f"{escape(node.name)}  \n:small[:gray[{escape(node.address)}]]" for node in nodes],
            _("State"): [_node_badge(node) for node in nodes],
            _("Free GPU memory"): [escape(_free_gpus(node)) for node in nodes],
            _("Engines"): [escape(_engines(snapshot, node)) for node in nodes],
            _("Last answer"): [_last_answer(node) for node in nodes],
        },
        border="horizontal",
        hide_index=True,
    )
    if problem is None:
        _show_problems(snapshot, nodes)


def _free_gpus(node: Node) -> str:
    """Such as `282.0 GiB on 2 GPUs`; of those that tell. "–" without a GPU."""
    free = [gpu.free_bytes for gpu in node.gpus if gpu.free_bytes is not None]
    if not free:
        return units.UNKNOWN
    return ngettext("{size} on {n} GPU", "{size} on {n} GPUs", len(free), size=units.gib(sum(free)))


def _last_answer(node: Node) -> str:
    """How long ago the node's agent answered."""
    silent_s = node.silent_s()
    if silent_s is None:
        return units.UNKNOWN
    return _("now") if node.alive else _("{time} ago", time=units.duration(silent_s))


def _node_badge(node: Node) -> str:
    if node.alive:
        return f":green-badge[:material/check: {_('connected')}]"
    if node.reported_at is None:
        return f":orange-badge[:material/hourglass_top: {_('joining')}]"
    return f":red-badge[:material/cloud_off: {_('lost')}]"


def _engines(snapshot: ClusterSnapshot, node: Node) -> str:
    names = snapshot.lanes_on(node)
    shown = ", ".join(names[:_MOST_NAMES])
    if len(names) > _MOST_NAMES:
        return _("{names} and {n} more", names=shown, n=len(names) - _MOST_NAMES)
    return shown or units.UNKNOWN


def _show_problems(snapshot: ClusterSnapshot, nodes: Sequence[Node]) -> None:
    lines = []
    for node in nodes:
        if node.problem is None:
            continue
        text = f"{prose(_(node.problem.message))} {prose(_(node.problem.hint))}".rstrip()
        lanes = snapshot.lanes_on(node)
        if lanes:
            names = escape(", ".join(lanes))
            text += f" {_('Lanes: {lanes}.', lanes=names)}"
        lines.append(f":orange[:material/warning:] {text}")
    if lines:
        st.markdown("  \n".join(lines))


def show_doctor() -> None:
    st.markdown(_("Checks driver, packages, memory, and disk from the engines' environment."))
    clicked = st.button(_("Check this machine"), icon=":material/stethoscope:")
    if clicked or _DIAGNOSIS not in st.session_state:
        _examine()
    diagnosis: Diagnosis = st.session_state[_DIAGNOSIS]
    for finding in sorted(diagnosis.findings, key=lambda finding: -list(Status).index(finding.status)):
        _show_finding(finding)


def _examine() -> None:
    """Look at everything; what is known stands there at once, the rest as it comes."""

    def show_all(findings: Sequence[Finding]) -> None:
        for finding in findings:
            _show_finding(finding)

    place = st.empty()
    with place.container(), st.spinner(_("Checking the engines' Python environment"), show_time=True):
        st.session_state[_DIAGNOSIS] = examine_all(
            resources.settings(), resources.lanes(), on_findings=show_all
        )
    place.empty()


def _show_finding(finding: Finding) -> None:
    remedy = f"  \n:gray[{prose(_(finding.remedy))}]" if finding.remedy else ""
    what, detail = escape(_(finding.subject)), prose(_(finding.detail))
    st.markdown(f"{_MARKS[finding.status]} **{what}** {detail}{remedy}")
