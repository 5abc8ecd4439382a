"""The engines page's list of engines, and what can be known and done about one of them."""

import streamlit as st

from core import units
from core.domain.sampling import Sampling
from core.domain.specs import LaneSpec
from core.engines.manager import EngineStatus
from core.engines.recipes import recipes
from core.engines.registry import EngineState
from core.engines.resolve import find_endpoint
from core.errors import LMDynoError
from core.ui.engines import actions as engine_actions
from core.ui.engines.settings_form import settings_form
from core.ui.engines.status import REFRESH_S, STATE_BADGES, show_unfit
from core.ui.shared import resources
from core.ui.shared.components import describe_lane, escape, lane_label, sentence, show_error

_RUNNING = (EngineState.STARTING, EngineState.HEALTHY, EngineState.STOPPING)


@st.fragment(run_every=REFRESH_S)
def show_engines() -> None:
    """A card for each engine of ours; refreshes itself."""
    statuses = resources.manager().statuses()
    if not statuses:
        st.info("No lane runs on this machine: all of them are endpoints.", icon=":material/cloud:")
        return
    with st.grid(min(len(statuses), 3), min_column_width=320):
        for status in statuses:
            with st.container(border=True, height="stretch"):
                _show_card(status)


def _show_card(status: EngineStatus) -> None:
    busy = " :violet-badge[in use]" if status.in_use else ""
    st.markdown(f"{lane_label(status.name)} {STATE_BADGES[status.state]}{busy}")
    st.caption(describe_lane(status.lane))
    if status.state is EngineState.STARTING:
        st.markdown(f":shimmer[{sentence(status.stage or 'starting')}] · {units.duration(status.elapsed_s)}")
        if status.last_log_line:
            st.caption(escape(status.last_log_line))
    elif status.error:
        show_error(status.error)
    elif status.state is EngineState.HEALTHY:
        if status.stage:
            st.markdown(f":orange[:material/warning: {sentence(status.stage)}]")
        st.markdown(_facts(status))
    elif status.state is EngineState.STOPPED:
        show_unfit(status.lane)
    _show_buttons(status)


def _facts(status: EngineStatus) -> str:
    facts = {
        "Address": f"`{status.url}`",
        "Process": f"{status.pid} on {status.device or units.UNKNOWN}",
        "Memory": escape(_memory(status)),
        "Up for": units.duration(status.elapsed_s),
        "Version": escape(status.version or units.UNKNOWN),
    }
    return "  \n".join(f"{name}: {value}" for name, value in facts.items())


def _memory(status: EngineStatus) -> str:
    """GPU memory and host memory of the engine's process tree, as sampled last."""
    readings = [e for sample in resources.sampler().samples()[-1:] for e in sample.engines]
    reading = next((each for each in readings if each.name == status.name), None)
    if reading is None:
        return units.UNKNOWN
    gpu = [share for share in reading.gpu_memory if share.used_bytes is not None]
    shares = [f"{units.gib(share.used_bytes)} on GPU {share.gpu}" for share in gpu]
    return ", ".join([*shares, f"{units.gib(reading.resident_bytes)} resident"])


def _show_buttons(status: EngineStatus) -> None:
    running = status.state in _RUNNING
    with st.container(horizontal=True):
        if not running:
            st.button(
                "Start",
                icon=":material/play_arrow:",
                key=f"engine_start_{status.name}",
                on_click=engine_actions.start,
                args=(status.name,),
            )
            return
        st.button(
            "Stop",
            icon=":material/stop:",
            key=f"engine_stop_{status.name}",
            disabled=status.in_use,
            help="Its answer is still coming; stop the chat or the run first." if status.in_use else None,
            on_click=engine_actions.stop,
            args=(status.name,),
        )
        st.button(
            "Restart",
            icon=":material/restart_alt:",
            key=f"engine_restart_{status.name}",
            disabled=status.in_use,
            on_click=engine_actions.restart,
            args=(status.name,),
        )


def show_details(lane: LaneSpec) -> None:
    """Log, settings, recipes and address of one lane; only the open tab is worked out."""
    st.markdown(f"### {lane_label(lane.name)}")
    st.caption(describe_lane(lane))
    names = ["Reproduce this lane", "Connect"]
    if lane.is_local:
        names = ["Settings", *names, "Log"]
    tabs = dict(zip(names, st.tabs(names, on_change="rerun", key=f"details_{lane.name}"), strict=True))
    for name, tab in tabs.items():
        if tab.open:
            with tab:
                _DETAILS[name](lane)


def _show_settings(lane: LaneSpec) -> None:
    if lane.settings.trust_remote_code:
        st.warning("This lane runs code that came with its model.", icon=":material/warning:")
    try:
        changed = settings_form(lane)
        if not changed or changed == lane.settings:
            return
        engine_actions.change_settings(lane, changed)
    except LMDynoError as error:
        show_error(error)
        return
    st.rerun()


def _show_recipes(lane: LaneSpec) -> None:
    st.caption("The same lane by hand, from its settings as they are now; ready to copy.")
    for recipe in recipes(lane, sampling=Sampling(max_tokens=256)):
        st.markdown(f"**{recipe.title}**")
        st.code(recipe.code, language=recipe.language, wrap_lines=True)


@st.fragment(run_every=REFRESH_S)
def _show_connection(lane: LaneSpec) -> None:
    try:
        endpoint = find_endpoint(resources.resources().settings, lane)
    except LMDynoError as error:
        show_error(error)
        return
    if endpoint is None:
        st.info("The engine is starting.", icon=":material/hourglass_top:")
        return
    st.markdown(
        "Any OpenAI-compatible client joins in here. Its requests slow the lane down while it measures."
    )
    st.markdown("Base URL")
    st.code(endpoint.url, language=None)
    st.markdown("Model")
    st.code(endpoint.model or "the first that the server lists", language=None)
    if lane.is_local and endpoint.api_key:
        with st.popover("Show the key", icon=":material/key:"):
            st.caption("Made for this engine alone; it ends with it.")
            st.code(endpoint.api_key, language=None)
    st.link_button(
        "The server's own API page",
        endpoint.url.removesuffix("/v1") + ("/docs" if lane.is_local else ""),
        icon=":material/open_in_new:",
    )


@st.fragment(run_every=REFRESH_S)
def _show_log(lane: LaneSpec) -> None:
    st.code(resources.manager().log_tail(lane.name, 200) or "The log is empty.", language=None, height=420)


_DETAILS = {
    "Settings": _show_settings,
    "Reproduce this lane": _show_recipes,
    "Connect": _show_connection,
    "Log": _show_log,
}
