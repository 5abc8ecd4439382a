"""The form for an engine's settings: the fields that its kind takes, with the rules of the lanes file."""

from collections.abc import Callable
from dataclasses import asdict, replace

import streamlit as st

from core.domain.rules import DEVICES, QUANT_POLICIES, conflict, dtypes, rule
from core.domain.specs import SETTINGS_OF, EngineSettings, LaneSpec
from core.errors import InputError
from core.i18n import N_, _
from core.ui.shared.components import escape

_AUTOMATIC = "automatic"
MOST_GPUS = 16
"""As many as one host has in practice."""


def settings_form(lane: LaneSpec) -> EngineSettings | None:
    """Draw the form; the new settings once submitted, else None. Raises InputError for a wrong value."""
    with st.form(f"engine_settings_{lane.name}", border=False):
        given: dict[str, object] = {}
        columns = st.columns(2)
        for place, name in enumerate(name for name in _FIELDS if name in SETTINGS_OF[lane.kind]):
            with columns[place % 2]:
                given[name] = _FIELDS[name](lane, f"setting_{lane.name}_{name}")
        _show_file_settings(lane)
        st.caption(_("Applying restarts a running engine. lanes.toml is not changed."))
        if not st.form_submit_button(_("Apply"), type="primary", icon=":material/check:"):
            return None
    return _checked(lane, given)


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


def _checked(lane: LaneSpec, given: dict[str, object]) -> EngineSettings:
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


_FIELDS: dict[str, Callable[[LaneSpec, str], object]] = {
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
