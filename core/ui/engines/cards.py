"""The engines page's list of engines, and the details and actions of one of them."""

import streamlit as st

from core import units
from core.access.guard import Action, may
from core.domain.sampling import Sampling
from core.domain.specs import LaneSpec
from core.engines.manager import EngineStatus
from core.engines.recipes import recipes
from core.engines.registry import EngineState
from core.engines.resolve import find_endpoint
from core.errors import LMDynoError
from core.i18n import _
from core.ui.engines import status as engine_status
from core.ui.engines.settings_form import settings_form
from core.ui.engines.status import REFRESH_S, finishing_badge, show_lane, show_stage, show_unfit, state_badge
from core.ui.shared import resources
from core.ui.shared.components import describe_lane, escape, lane_label, show_error, show_tabs

_RUNNING = (EngineState.STARTING, EngineState.HEALTHY, EngineState.STOPPING)


@st.fragment(run_every=REFRESH_S)
def show_engines() -> None:
    """A card for each engine of ours; refreshes itself."""
    statuses = resources.manager().statuses()
    if not statuses:
        st.info(_("All lanes are endpoints. No engine runs on this machine."), icon=":material/cloud:")
        return
    with st.grid(min(len(statuses), 3), min_column_width=320):
        for status in statuses:
            with st.container(border=True, height="stretch"):
                _show_card(status)


def _show_card(status: EngineStatus) -> None:
    busy = f" :violet-badge[{_('in use')}]" if status.in_use else ""
    badge = state_badge(status.state) if status.finishing_s is None else finishing_badge()
    st.markdown(f"{lane_label(status.name)} {badge}{busy}")
    show_lane(status)
    if status.state is EngineState.STARTING:
        show_stage(status)
        if status.last_log_line:
            st.caption(escape(status.last_log_line))
    elif status.error:
        show_error(status.error)
    elif status.state is EngineState.HEALTHY:
        if status.stage:
            st.markdown(f":orange[:material/warning: {escape(_(status.stage))}]")
        st.markdown(_facts(status))
    elif status.state is EngineState.STOPPED:
        show_unfit(status.lane)
    _show_replicas(status)
    _show_buttons(status)


def _show_replicas(status: EngineStatus) -> None:
    """A line for each server behind the lane's address."""
    for replica in status.replicas:
        where = _("{pid} on {device}", pid=replica.pid, device=replica.device or units.UNKNOWN)
        if replica.exit_code is not None:
            where = _("exit code {code}", code=replica.exit_code)
        name = _("Replica {number}", number=replica.number)
        st.markdown(f"{name} {state_badge(replica.state)} · {where}")


def _facts(status: EngineStatus) -> str:
    facts = {
        _("Address"): f"`{status.url}`",
        _("Process"): _("{pid} on {device}", pid=status.pid, device=status.device or units.UNKNOWN),
        _("Memory"): _memory(status),
        _("Uptime"): units.duration(status.elapsed_s),
        _("Version"): escape(status.version or units.UNKNOWN),
    }
    return "  \n".join(_("{name}: {value}", name=name, value=value) for name, value in facts.items())


def _memory(status: EngineStatus) -> str:
    """GPU memory and host memory of the engine's process tree, as sampled last."""
    readings = [e for sample in resources.sampler().samples()[-1:] for e in sample.engines]
    reading = next((engine for engine in readings if engine.name == status.name), None)
    if reading is None:
        return units.UNKNOWN
    gpu = [share for share in reading.gpu_memory if share.used_bytes is not None]
    shares = [_("{size} on GPU {index}", size=units.gib(share.used_bytes), index=share.gpu) for share in gpu]
    return ", ".join([*shares, _("{size} resident", size=units.gib(reading.resident_bytes))])


def _show_buttons(status: EngineStatus) -> None:
    if not may(Action.RESTART_ENGINE):
        return
    running = status.state in _RUNNING
    with st.container(horizontal=True):
        if not running:
            st.button(
                _("Start"),
                icon=":material/play_arrow:",
                key=f"engine_start_{status.name}",
                on_click=engine_status.start,
                args=(status.name,),
            )
            return
        st.button(
            _("Stop"),
            icon=":material/stop:",
            key=f"engine_stop_{status.name}",
            disabled=status.in_use,
            help=_("The engine is answering a request. Stop the chat or run first.")
            if status.in_use
            else None,
            on_click=engine_status.stop,
            args=(status.name,),
        )
        st.button(
            _("Restart") if status.finishing_s is None else _("Restart now"),
            icon=":material/restart_alt:",
            key=f"engine_restart_{status.name}",
            disabled=status.in_use,
            help=None
            if status.finishing_s is None
            else _("The engine is still working on a stopped request. The next request waits for it."),
            type="secondary" if status.finishing_s is None else "primary",
            on_click=engine_status.restart,
            args=(status.name,),
        )


def show_details(lane: LaneSpec) -> None:
    """Log, settings, recipes and address of one lane; only the open tab is worked out."""
    st.markdown(f"### {lane_label(lane.name)}")
    st.caption(describe_lane(lane))
    details = {_("Reproduce this lane"): _show_recipes, _("Connect"): _show_connection}
    if lane.is_local and may(Action.CHANGE_LANE):  # a log can hold what others asked
        details = {_("Settings"): _show_settings, **details, _("Log"): _show_log}
    tabs = show_tabs(list(details), key=f"details_{lane.name}")
    for tab, show in zip(tabs, details.values(), strict=True):
        if tab.open:
            with tab:
                show(lane)


def _show_settings(lane: LaneSpec) -> None:
    if lane.settings.trust_remote_code:
        st.warning(_("This lane runs code that comes with its model."), icon=":material/warning:")
    try:
        changed = settings_form(lane)
        if not changed or changed == lane.settings:
            return
        engine_status.change_settings(lane, changed)
    except LMDynoError as error:
        show_error(error)
        return
    st.rerun()


def _show_recipes(lane: LaneSpec) -> None:
    st.caption(_("Reproduce this lane outside LMDyno with its current settings."))
    for recipe in recipes(lane, sampling=Sampling(max_tokens=256)):
        st.markdown(f"**{_(recipe.title)}**")
        st.code(recipe.code, language=recipe.language, wrap_lines=True)


@st.fragment(run_every=REFRESH_S)
def _show_connection(lane: LaneSpec) -> None:
    try:
        endpoint = find_endpoint(resources.settings(), lane)
    except LMDynoError as error:
        show_error(error)
        return
    if endpoint is None:
        st.info(_("The engine is starting."), icon=":material/hourglass_top:")
        return
    st.markdown(
        _(
            "Use this address from any OpenAI-compatible client. Extra requests disturb measurements in "
            "progress."
        )
    )
    st.markdown(_("Base URL"))
    st.code(endpoint.url, language=None)
    st.markdown(_("Model"))
    st.code(endpoint.model or _("the first model that the server lists"), language=None)
    if lane.is_local and endpoint.api_key and may(Action.CHANGE_LANE):
        with st.popover(_("Show the key"), icon=":material/key:"):
            st.caption(_("Temporary key, valid until this engine stops."))
            st.code(endpoint.api_key, language=None)
    st.link_button(
        _("Open the server's API page"),
        endpoint.url.removesuffix("/v1") + ("/docs" if lane.is_local else ""),
        icon=":material/open_in_new:",
    )


@st.fragment(run_every=REFRESH_S)
def _show_log(lane: LaneSpec) -> None:
    replica = None
    if lane.settings.replicas > 1:
        replica = st.segmented_control(
            _("Log of"),
            [0, *range(1, lane.settings.replicas + 1)],
            default=0,
            required=True,
            format_func=lambda number: _("Replica {number}", number=number) if number else _("proxy"),
            key=f"log_replica_{lane.name}",
        )
    text = resources.manager().log_tail(lane.name, 200, replica=replica or None)
    st.code(text or _("The log is empty."), language=None, height=420)
