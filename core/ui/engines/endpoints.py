"""Servers that somebody else runs: test a connection, keep it as a lane, see its load."""

import streamlit as st

from core import units
from core.chat_api.probe import EndpointReport, probe, server_metrics
from core.config import LANE_NAME
from core.config.changes import changed_lanes
from core.config.keys import api_key, key_names
from core.domain.specs import Dialect, EndpointSpec, EngineKind, LaneSpec
from core.errors import ConfigError, InputError, LMDynoError
from core.ui.engines import actions as engine_actions
from core.ui.engines.status import REFRESH_S
from core.ui.shared import resources
from core.ui.shared.components import escape, lane_label, show_error

_REPORT = "endpoint_report"
_DIALECT_NAMES = {
    Dialect.LMDEPLOY: "LMDeploy",
    Dialect.TRANSFORMERS: "transformers serve",
    Dialect.GENERIC: "any OpenAI-compatible server",
}


def show_endpoints() -> None:
    remote = [lane for lane in resources.lanes().lanes if not lane.is_local]
    added = changed_lanes(resources.resources().settings)
    for lane in remote:
        with st.container(border=True):
            _show_load(lane)
            if lane.name in added:
                st.button(
                    "Remove",
                    icon=":material/delete:",
                    type="tertiary",
                    key=f"forget_{lane.name}",
                    on_click=engine_actions.forget,
                    args=(lane.name,),
                )
    st.subheader("Add an endpoint", anchor=False)
    st.caption(
        "An `api_server` on another machine, LMDeploy's proxy over several of them, vLLM, SGLang, llama.cpp, "
        "Ollama, or any other OpenAI-compatible server."
    )
    _show_test()
    report: tuple[str, str | None, EndpointReport] | None = st.session_state.get(_REPORT)
    if report:
        _show_found(*report)


@st.fragment(run_every=5 * REFRESH_S)
def _show_load(lane: LaneSpec) -> None:
    """One line on a server; refreshes itself."""
    assert lane.endpoint is not None
    try:
        key = _key(lane.endpoint.api_key_name, lane.endpoint.url)
        load = server_metrics(lane.endpoint.url, key, timeout_s=1.0)
        facts = "no `/metrics` there"
    except ConfigError as error:
        load, facts = None, escape(error.message)
    if load:
        used = f"{load.kv_used_ratio:.0%}" if load.kv_used_ratio is not None else units.UNKNOWN
        facts = f"{units.count(load.running)} running · {units.count(load.waiting)} waiting · KV cache {used}"
    st.markdown(f"{lane_label(lane.name)} {escape(lane.endpoint.url)} · {facts}")


def _show_test() -> None:
    try:
        names = key_names(resources.resources().settings)
    except ConfigError as error:
        show_error(error)
        names = ()
    with st.form("endpoint_test", border=True):
        url = st.text_input("Base URL", placeholder="http://gpu-host:23333/v1")
        key_name = st.selectbox(
            "Key",
            names,
            index=None,
            placeholder="None",
            disabled=not names,
            help="Environment variables whose names begin with `LMDYNO_KEY_`, and `[keys]` of the secrets. "
            "A key goes only to the hosts that it is bound to; a lane keeps its name only.",
        )
        if st.form_submit_button("Test the connection", icon=":material/network_check:"):
            st.session_state.pop(_REPORT, None)
            url = url.strip().rstrip("/")
            try:
                with st.spinner("Asking the server"):
                    st.session_state[_REPORT] = (url, key_name, probe(url, _key(key_name, url)))
            except LMDynoError as error:
                show_error(error)


def _key(name: str | None, url: str) -> str | None:
    return api_key(resources.resources().settings, name, url) if name else None


def _show_found(url: str, key_name: str | None, report: EndpointReport) -> None:
    st.success(
        f"It answers in {units.milliseconds(report.round_trip_s)}. Models: {len(report.models)}."
        + (" It offers `/metrics`." if report.has_metrics else ""),
        icon=":material/check_circle:",
    )
    with st.form("endpoint_add", border=True):
        name = st.text_input("Name of the lane", placeholder="lab")
        model = st.selectbox("Model", report.models, disabled=not report.models)
        dialect = st.selectbox(
            "Dialect",
            list(Dialect),
            index=list(Dialect).index(report.dialect),
            format_func=_DIALECT_NAMES.__getitem__,
            help="How the server streams and which sampling fields it takes.",
        )
        if st.form_submit_button("Add the lane", type="primary", icon=":material/add:"):
            endpoint = EndpointSpec(
                url=url, model=model, dialect=dialect or report.dialect, api_key_name=key_name
            )
            try:
                _add(name, endpoint)
            except LMDynoError as error:
                show_error(error)
                return
            st.session_state.pop(_REPORT, None)
            st.rerun()


def _add(name: str, endpoint: EndpointSpec) -> None:
    if not LANE_NAME.fullmatch(name):
        raise InputError(
            f"“{name}” is no name for a lane",
            hint="Up to 32 small letters, digits, dots, hyphens and underscores, a letter or digit first.",
        )
    if name in {lane.name for lane in resources.lanes().lanes}:
        raise InputError(f"There is a lane {name} already", hint="Choose another name.")
    engine_actions.keep_lane(LaneSpec(name=name, kind=EngineKind.ENDPOINT, endpoint=endpoint))
