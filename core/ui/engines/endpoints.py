"""Servers that somebody else runs: test a connection, keep it as a lane, see its load."""

import streamlit as st

from core import units
from core.access.guard import Action, may
from core.chat_api.probe import EndpointReport, probe, server_metrics
from core.config import LANE_NAME
from core.config.changes import changed_lanes
from core.config.keys import api_key, key_names
from core.domain.specs import Dialect, EndpointSpec, EngineKind, LaneSpec
from core.errors import ConfigError, InputError, LMDynoError
from core.i18n import N_, _, ngettext
from core.ui.engines import actions as engine_actions
from core.ui.engines.status import REFRESH_S
from core.ui.shared import resources
from core.ui.shared.components import escape, lane_label, show_error
from core.ui.shared.rights import offers

_REPORT = "endpoint_report"
_DIALECT_NAMES = {
    Dialect.LMDEPLOY: "LMDeploy",
    Dialect.TRANSFORMERS: "transformers serve",
    Dialect.VLLM: "vLLM",
    Dialect.SGLANG: "SGLang",
    Dialect.LLAMACPP: "llama.cpp",
    Dialect.GENERIC: N_("any OpenAI-compatible server"),
}


def show_endpoints() -> None:
    remote = [lane for lane in resources.lanes().lanes if not lane.is_local]
    added = changed_lanes(resources.resources().settings)
    for lane in remote:
        with st.container(border=True):
            _show_load(lane)
            if lane.name in added and may(Action.REMOVE_LANE):
                st.button(
                    _("Remove"),
                    icon=":material/delete:",
                    type="tertiary",
                    key=f"forget_{lane.name}",
                    on_click=engine_actions.forget,
                    args=(lane.name,),
                )
    if not offers(Action.TEST_ENDPOINT):
        return
    st.subheader(_("Add an endpoint"), anchor=False)
    st.caption(
        _(
            "LMDeploy's `api_server` on another machine, LMDeploy's proxy, vLLM, SGLang, llama.cpp, "
            "Ollama, or "
            "any other OpenAI-compatible server."
        )
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
        facts = _("No `/metrics`")
    except ConfigError as error:
        load, facts = None, escape(_(error.message))
    if load:
        facts = _(
            "{running} running · {waiting} waiting · KV cache {used}",
            running=units.count(load.running),
            waiting=units.count(load.waiting),
            used=f"{load.kv_used_ratio:.0%}" if load.kv_used_ratio is not None else units.UNKNOWN,
        )
    st.markdown(f"{lane_label(lane.name)} {escape(lane.endpoint.url)} · {facts}")


def _show_test() -> None:
    try:
        names = key_names(resources.resources().settings)
    except ConfigError as error:
        show_error(error)
        names = ()
    with st.form("endpoint_test", border=True):
        url = st.text_input(
            _("Base URL"),
            placeholder="http://gpu-host:23333/v1",
            key="endpoint_url",
        )
        key_name = st.selectbox(
            _("API key"),
            names,
            index=None,
            placeholder=_("None"),
            disabled=not names,
            help=_(
                "Environment variables whose names start with `LMDYNO_KEY_`, and `[keys]` in the secrets "
                "file. "
                "A key is sent only to the hosts it is bound to. A lane stores only the key's name."
            ),
            key="endpoint_api_key",
        )
        if st.form_submit_button(_("Test the connection"), icon=":material/network_check:"):
            st.session_state.pop(_REPORT, None)
            url = url.strip().rstrip("/")
            try:
                with st.spinner(_("Connecting")):
                    st.session_state[_REPORT] = (url, key_name, probe(url, _key(key_name, url)))
            except LMDynoError as error:
                show_error(error)


def _key(name: str | None, url: str) -> str | None:
    return api_key(resources.resources().settings, name, url) if name else None


def _show_found(url: str, key_name: str | None, report: EndpointReport) -> None:
    answered = ngettext(
        "Connected ({time}). {n} model found.",
        "Connected ({time}). {n} models found.",
        len(report.models),
        time=units.milliseconds(report.round_trip_s),
    )
    metrics = _("The server offers `/metrics`.") if report.has_metrics else ""
    st.success(f"{answered} {metrics}", icon=":material/check_circle:")
    with st.form("endpoint_add", border=True):
        name = st.text_input(
            _("Lane name"),
            placeholder="lab",
            key="endpoint_lane",
        )
        model = st.selectbox(
            _("Model"),
            report.models,
            disabled=not report.models,
            key="endpoint_model",
        )
        dialect = st.selectbox(
            _("Dialect"),
            list(Dialect),
            index=list(Dialect).index(report.dialect),
            format_func=lambda dialect: _(_DIALECT_NAMES[dialect]),
            help=_("How the server streams, and which sampling parameters it accepts."),
            key="endpoint_dialect",
        )
        if st.form_submit_button(_("Add lane"), type="primary", icon=":material/add:"):
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
            N_("“{name}” is not a valid lane name.", name=name),
            hint=N_(
                "Use up to 32 lowercase letters, digits, dots, hyphens, or underscores, starting with a "
                "letter "
                "or digit."
            ),
        )
    if name in {lane.name for lane in resources.lanes().lanes}:
        raise InputError(
            N_("A lane named {name} already exists.", name=name), hint=N_("Choose another name.")
        )
    engine_actions.keep_lane(LaneSpec(name=name, kind=EngineKind.ENDPOINT, endpoint=endpoint))
