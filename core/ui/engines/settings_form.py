"""The form for an engine's settings: the fields that its kind takes, with the rules of the lanes file."""

from collections.abc import Callable
from dataclasses import asdict, replace

import streamlit as st

from core.domain.rules import DEVICES, QUANT_POLICIES, conflict, dtypes, rule
from core.domain.specs import SETTINGS_OF, EngineSettings, LaneSpec
from core.errors import InputError
from core.i18n import N_
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
        st.caption("A running engine is started anew with these settings; lanes.toml stays as it is.")
        if not st.form_submit_button("Apply", type="primary", icon=":material/check:"):
            return None
    return _checked(lane, given)


def _show_file_settings(lane: LaneSpec) -> None:
    """What decides which code runs here is shown, and can't be changed from a web page."""
    python = escape(lane.settings.python or "the dashboard's own")
    trusted = "runs" if lane.settings.trust_remote_code else "doesn't run"
    st.markdown(
        f"Python interpreter (`python`): {python}  \nCode that comes with the model "
        f"(`trust_remote_code`): {trusted}",
        help="Set in lanes.toml only, since both decide which code runs on this machine.",
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
        "Device",
        options,
        index=options.index(lane.settings.device or _AUTOMATIC),
        key=key,
        help="`device`: automatic takes a GPU where there is one.",
    )
    return None if chosen == _AUTOMATIC else chosen


def _devices(lane: LaneSpec, key: str) -> tuple[int, ...] | None:
    chosen = st.multiselect(
        "Pinned GPUs",
        range(MOST_GPUS),
        lane.settings.devices,
        key=key,
        placeholder="by free memory",
        help="`devices`: GPU indices; none places the engine by free memory.",
    )
    return tuple(chosen) or None


def _dtype(lane: LaneSpec, key: str) -> str:
    options = dtypes(lane.kind)
    return st.selectbox(
        "Computing dtype", options, index=options.index(lane.settings.dtype), key=key, help="`dtype`"
    )


def _start_timeout(lane: LaneSpec, key: str) -> float:
    return st.number_input(
        "Start time-out (s)",
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
        "Continuous batching",
        lane.settings.continuous_batching,
        key=key,
        help="`continuous_batching`: several requests at once instead of one after another.",
    )


def _session_len(lane: LaneSpec, key: str) -> int:
    return st.number_input(
        "Context length (tokens)",
        1,
        10_000_000,
        lane.settings.session_len,
        key=key,
        help="`session_len`: prompt and answer together.",
    )


def _max_batch_size(lane: LaneSpec, key: str) -> int:
    return st.number_input(
        "Batch limit",
        1,
        4096,
        lane.settings.max_batch_size,
        key=key,
        help="`max_batch_size`: requests that run at once; further ones wait.",
    )


def _cache_max_entry_count(lane: LaneSpec, key: str) -> float:
    return st.slider(
        "KV-cache ratio",
        0.01,
        0.99,
        lane.settings.cache_max_entry_count,
        0.01,
        key=key,
        help="`cache_max_entry_count`: the share of the GPU memory still free after loading the weights "
        "that the KV cache takes at once.",
    )


def _quant_policy(lane: LaneSpec, key: str) -> int:
    return st.segmented_control(
        "KV-cache bits",
        QUANT_POLICIES,
        default=lane.settings.quant_policy,
        format_func=lambda bits: f"{bits} bit" if bits else "as dtype",
        required=True,
        key=key,
        help="`quant_policy`: 8 or 4 bit keys and values; 0 keeps the dtype.",
    )


def _tp(lane: LaneSpec, key: str) -> int:
    return st.number_input(
        "Tensor parallel size", 1, 64, lane.settings.tp, key=key, help="`tp`: GPUs that one engine spans."
    )


def _prefix_caching(lane: LaneSpec, key: str) -> bool:
    return st.toggle(
        "Prefix caching",
        lane.settings.enable_prefix_caching,
        key=key,
        help="`enable_prefix_caching`: prompts with the same beginning reuse its keys and values. "
        "It changes TTFT, so the fairness guard flags it.",
    )


_FIELDS: dict[str, Callable[[LaneSpec, str], object]] = {
    "dtype": _dtype,
    "session_len": _session_len,
    "max_batch_size": _max_batch_size,
    "cache_max_entry_count": _cache_max_entry_count,
    "quant_policy": _quant_policy,
    "tp": _tp,
    "enable_prefix_caching": _prefix_caching,
    "continuous_batching": _continuous_batching,
    "device": _device,
    "devices": _devices,
    "start_timeout_s": _start_timeout,
}
