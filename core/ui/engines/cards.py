"""The engines page's list of engines, and the details and actions of one of them, its settings' form too."""

from collections.abc import Callable
from dataclasses import asdict, replace

import streamlit as st

from core import units
from core.access.guard import Action, may
from core.domain.conversation import Sampling
from core.domain.specs import (
    DEVICES,
    QUANT_POLICIES,
    SETTINGS_OF,
    EngineSettings,
    LaneSpec,
    conflict,
    dtypes,
    rule,
)
from core.engines.manager import EngineStatus
from core.engines.recipes import recipes
from core.engines.registry import EngineState
from core.engines.resolve import find_endpoint
from core.errors import InputError, LMDynoError
from core.i18n import N_, _
from core.ui.engines import status as engine_status
from core.ui.engines.status import REFRESH_S, finishing_badge, show_lane, show_stage, show_unfit, state_badge
from core.ui.shared import resources
from core.ui.shared.components import describe_lane, escape, lane_label, show_error, show_tabs

_RUNNING = (EngineState.STARTING, EngineState.HEALTHY, EngineState.STOPPING)

_AUTOMATIC = "automatic"
MOST_GPUS = 16
"""As many as one host has in practice."""


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


def settings_form(lane: LaneSpec) -> EngineSettings | None:
    """Draw the form; the new settings once submitted, else None. Raises InputError for a wrong value."""
    with st.form(f"engine_settings_{lane.name}", border=False):
        given: dict[str, object] = {}
        columns = st.columns(2)
        for place, name in enumerate(name for name in _SETTING_FIELDS if name in SETTINGS_OF[lane.kind]):
            with columns[place % 2]:
                given[name] = _SETTING_FIELDS[name](lane, f"setting_{lane.name}_{name}")
        _show_file_settings(lane)
        st.caption(_("Applying restarts a running engine. lanes.toml is not changed."))
        if not st.form_submit_button(_("Apply"), type="primary", icon=":material/check:"):
            return None
    return _checked_settings(lane, given)


def _show_file_settings(lane: LaneSpec) -> None:
    """Settings that decide which code runs here are shown, and can't be changed from a web page."""
    python = escape(lane.settings.python or _("the dashboard's own"))
    interpreter = _("Python interpreter (`python`): {path}", path=python)
    if lane.settings.trust_remote_code:
        remote_code = _("Trust remote code (`trust_remote_code`): yes")
    else:
        remote_code = _("Trust remote code (`trust_remote_code`): no")
    st.markdown(
        f"{interpreter}  \n{remote_code}",
        help=_("Both decide which code runs on this machine, so you can set them only in lanes.toml."),
    )


def _checked_settings(lane: LaneSpec, given: dict[str, object]) -> EngineSettings:
    defaults = asdict(EngineSettings())
    for name, value in given.items():
        needed = rule(lane.kind, name)
        if value != defaults[name] and not needed.accepts(value):
            raise InputError(N_("{key} is {value}.", key=name, value=value), hint=needed.hint)
    settings = replace(lane.settings, **given)  # type: ignore[arg-type]
    if contradiction := conflict(settings):
        setting, hint = contradiction
        raise InputError(N_("{key} doesn't fit the other settings.", key=setting), hint=hint)
    return settings


def _device(lane: LaneSpec, key: str) -> str | None:
    options = (_AUTOMATIC, *DEVICES)
    chosen = st.selectbox(
        _("Device"),
        options,
        index=options.index(lane.settings.device or _AUTOMATIC),
        format_func=lambda device: _("automatic") if device == _AUTOMATIC else device,
        key=key,
        help=_("`device`: automatic uses a GPU if the machine has one."),
    )
    return None if chosen == _AUTOMATIC else chosen


def _devices(lane: LaneSpec, key: str) -> tuple[int, ...] | None:
    chosen = st.multiselect(
        _("Pin to GPUs"),
        range(MOST_GPUS),
        lane.settings.devices,
        key=key,
        placeholder=_("by free memory"),
        help=_("`devices`: GPU indices. If empty, LMDyno chooses GPUs by free memory."),
    )
    return tuple(chosen) or None


def _dtype(lane: LaneSpec, key: str) -> str:
    options = dtypes(lane.kind)
    return st.selectbox(
        _("Compute dtype"), options, index=options.index(lane.settings.dtype), key=key, help="`dtype`"
    )


def _start_timeout(lane: LaneSpec, key: str) -> float:
    return st.number_input(
        _("Start timeout (s)"),
        1.0,
        86_400.0,
        lane.settings.start_timeout_s,
        10.0,
        format="%.0f",
        key=key,
        help="`start_timeout_s`",
    )


def _continuous_batching(lane: LaneSpec, key: str) -> bool:
    return st.toggle(
        _("Continuous batching"),
        lane.settings.continuous_batching,
        key=key,
        help=_("`continuous_batching`: serves several requests at once instead of one after another."),
    )


def _session_len(lane: LaneSpec, key: str) -> int:
    return st.number_input(
        _("Context length (tokens)"),
        1,
        10_000_000,
        lane.settings.session_len,
        key=key,
        help=_("`session_len`: prompt and answer together."),
    )


def _max_batch_size(lane: LaneSpec, key: str) -> int:
    return st.number_input(
        _("Maximum batch size"),
        1,
        4096,
        lane.settings.max_batch_size,
        key=key,
        help=_("`max_batch_size`: requests that run at the same time. Others wait."),
    )


def _cache_max_entry_count(lane: LaneSpec, key: str) -> float:
    return st.slider(
        _("KV cache ratio"),
        0.01,
        0.99,
        lane.settings.cache_max_entry_count,
        0.01,
        key=key,
        help=_(
            "`cache_max_entry_count`: the share of the GPU memory left after loading the weights that the "
            "engine "
            "reserves for the KV cache."
        ),
    )


def _quant_policy(lane: LaneSpec, key: str) -> int:
    return st.segmented_control(
        _("KV cache bits"),
        QUANT_POLICIES,
        default=lane.settings.quant_policy,
        format_func=lambda bits: _("{bits}-bit", bits=bits) if bits else _("same as dtype"),
        required=True,
        key=key,
        help=_("`quant_policy`: 8-bit or 4-bit keys and values. 0 keeps the dtype."),
    )


def _tp(lane: LaneSpec, key: str) -> int:
    return st.number_input(
        _("Tensor parallel size"),
        1,
        64,
        lane.settings.tp,
        key=key,
        help=_("`tp`: the number of GPUs that the engine uses."),
    )


def _replicas(lane: LaneSpec, key: str) -> int:
    return st.number_input(
        _("Replicas"),
        1,
        64,
        lane.settings.replicas,
        key=key,
        help=_(
            "`replicas`: the number of servers behind LMDeploy's proxy. Each takes as many GPUs as the "
            "tensor parallel size says."
        ),
    )


def _prefix_caching(lane: LaneSpec, key: str) -> bool:
    return st.toggle(
        _("Prefix caching"),
        lane.settings.enable_prefix_caching,
        key=key,
        help=_(
            "`enable_prefix_caching`: prompts that start the same reuse keys and values. This changes "
            "TTFT, so "
            "comparisons flag it."
        ),
    )


_SETTING_FIELDS: dict[str, Callable[[LaneSpec, str], object]] = {
    "dtype": _dtype,
    "session_len": _session_len,
    "max_batch_size": _max_batch_size,
    "cache_max_entry_count": _cache_max_entry_count,
    "quant_policy": _quant_policy,
    "tp": _tp,
    "replicas": _replicas,
    "enable_prefix_caching": _prefix_caching,
    "continuous_batching": _continuous_batching,
    "device": _device,
    "devices": _devices,
    "start_timeout_s": _start_timeout,
}
