"""Servers that somebody else runs: test a connection, keep it as a lane, change it, and see its load."""

import json
import zlib
from typing import Any

import streamlit as st

from core import units
from core.access.guard import Action, may
from core.chat_api.servers import EndpointReport, probe, server_metrics
from core.config import LANE_NAME, changed_lanes, endpoint_lane, file_lanes
from core.config.endpoints import LENGTH_NAMES, api_key, endpoint_table, key_names
from core.domain.specs import Dialect, EndpointSpec, EngineKind, LaneSpec
from core.errors import ConfigError, InputError, LMDynoError
from core.i18n import N_, _, ngettext
from core.ui.engines import status as engine_status
from core.ui.engines.status import REFRESH_S, reach_badge, reach_of
from core.ui.shared import resources
from core.ui.shared.components import escape, lane_label, show_error
from core.ui.shared.visitor import offers

_REPORT = "endpoint_report"

DIALECT_NAMES = {
    Dialect.LMDEPLOY: "LMDeploy",
    Dialect.TRANSFORMERS: "transformers serve",
    Dialect.VLLM: "vLLM",
    Dialect.SGLANG: "SGLang",
    Dialect.LLAMACPP: "llama.cpp",
    Dialect.GENERIC: N_("any OpenAI-compatible server"),
}
_IMAGES = {None: N_("Ask the server"), True: N_("Yes"), False: N_("No")}


def show_endpoints() -> None:
    remote = [lane for lane in resources.lanes().lanes if not lane.is_local]
    added = changed_lanes(resources.settings())
    for lane in remote:
        with st.container(border=True):
            _show_server(lane)
            with st.container(horizontal=True):
                if may(Action.CHANGE_LANE):
                    _show_edit(lane)
                if lane.name in added and may(Action.REMOVE_LANE):
                    _show_removal(lane)
    _show_undo()
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
def _show_server(lane: LaneSpec) -> None:
    """Whether a server answers, and its load; refreshes itself."""
    assert lane.endpoint is not None
    reach = reach_of(lane)
    facts = [escape(lane.endpoint.url)]
    if reach and reach.round_trip_s is not None:
        facts += [_("Lists its models in {time}.", time=units.milliseconds(reach.round_trip_s)), _load(lane)]
    st.markdown(f"{lane_label(lane.name)} {reach_badge(reach)} {' · '.join(facts)}")
    if reach and reach.error:
        show_error(reach.error)


def _load(lane: LaneSpec) -> str:
    assert lane.endpoint is not None
    try:
        key = _key(lane.endpoint.api_key_name, lane.endpoint.url)
        load = server_metrics(lane.endpoint.url, key, timeout_s=1.0)
    except ConfigError as error:
        return escape(_(error.message))
    if load is None:
        return _("No `/metrics`")
    return _(
        "{running} running · {waiting} waiting · KV cache {used}",
        running=units.count(load.running),
        waiting=units.count(load.waiting),
        used=f"{load.kv_used_ratio:.0%}" if load.kv_used_ratio is not None else units.UNKNOWN,
    )


def _show_edit(lane: LaneSpec) -> None:
    with st.popover(_("Edit"), icon=":material/edit:", key=edit_key(lane), on_change="rerun") as edit:
        if not edit.open:
            return
        try:
            changed = edit_form(lane)
            if changed is None or changed == lane:
                return
            engine_status.keep_lane(changed)
        except LMDynoError as error:
            show_error(error)
            return
    st.rerun()


def edit_key(lane: LaneSpec) -> str:
    """Another one for each state of the lane: the open form would stay open after saving."""
    return f"edit_{lane.name}_{zlib.crc32(repr(lane).encode())}"


def _show_removal(lane: LaneSpec) -> None:
    """Of an added endpoint, or of the changes to one of the lanes file."""
    is_of_file = _is_of_file(lane)
    st.button(
        _("Undo changes") if is_of_file else _("Remove"),
        icon=":material/settings_backup_restore:" if is_of_file else ":material/delete:",
        type="tertiary",
        key=f"forget_{lane.name}",
        on_click=engine_status.forget,
        args=(lane,),
        help=_("The lane becomes as the lanes file has it.") if is_of_file else _("You can undo this."),
    )


def _is_of_file(lane: LaneSpec) -> bool:
    try:
        return lane.name in {known.name for known in file_lanes(resources.settings())}
    except ConfigError:  # a file that broke meanwhile; reading the lanes again says what is wrong with it
        return False


def _show_undo() -> None:
    """The way back after a removal."""
    lane = engine_status.removed()
    if lane is None or not may(Action.CHANGE_LANE):
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        text = _("{lane} was removed.", lane=escape(lane.name))
        if lane.name in {known.name for known in resources.lanes().lanes}:
            text = _("{lane} is as the lanes file has it.", lane=escape(lane.name))
        st.markdown(f":material/delete: {text}", width="content")
        st.button(
            _("Undo"),
            icon=":material/undo:",
            key="bring_back_lane",
            on_click=engine_status.bring_back,
            args=(lane,),
        )


def _show_test() -> None:
    try:
        names = key_names(resources.settings())
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
    return api_key(resources.settings(), name, url) if name else None


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
            format_func=lambda dialect: _(DIALECT_NAMES[dialect]),
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
    engine_status.keep_lane(LaneSpec(name=name, kind=EngineKind.ENDPOINT, endpoint=endpoint))


def edit_form(lane: LaneSpec) -> LaneSpec | None:
    """The form; returns the changed lane once it is submitted. Raises ConfigError and InputError."""
    table = endpoint_table(lane)
    with st.form(f"endpoint_edit_{lane.name}", border=False):
        changed = _server_fields(lane.name, table) | _request_fields(lane.name, table)
        if not st.form_submit_button(_("Save"), type="primary", icon=":material/save:"):
            return None
    headers, body, left_out = (changed.pop(name).strip() for name in ("headers", "extra_body", "leave_out"))
    entries: dict[str, Any] = {"engine": table["engine"], **changed}
    entries["headers"] = _headers(headers)
    entries["extra_body"] = _json_object(body)
    entries["leave_out"] = [name.strip() for name in left_out.split(",") if name.strip()]
    kept = {name: value for name, value in entries.items() if value not in (None, "", {}, [])}
    return endpoint_lane(resources.settings(), lane.name, kept)


def _server_fields(name: str, table: dict[str, Any]) -> dict[str, Any]:
    """The fields for the server's address and model."""

    def key(field: str) -> str:
        return f"endpoint_{field}_{name}"

    try:
        names = list(key_names(resources.settings()))
    except ConfigError:
        names = []
    if table.get("api_key") and table["api_key"] not in names:
        names.append(table["api_key"])
    left, right = st.columns(2)
    with left:
        url = st.text_input(_("Base URL"), table["url"], key=key("url"))
        dialect = st.selectbox(
            _("Server"),
            list(Dialect),
            index=list(Dialect).index(Dialect(table["dialect"])),
            format_func=lambda known: _(DIALECT_NAMES[known]),
            key=key("dialect"),
            help=_("Decides which request fields are sent and how the answer is read."),
        )
        vision = st.selectbox(
            _("Takes images"),
            list(_IMAGES),
            index=list(_IMAGES).index(table.get("vision")),
            format_func=lambda known: _(_IMAGES[known]),
            key=key("vision"),
        )
    with right:
        model = st.text_input(
            _("Model"),
            table.get("model", ""),
            key=key("model"),
            placeholder=_("the first model that the server lists"),
        )
        api_key = st.selectbox(
            _("API key"),
            names,
            index=names.index(table["api_key"]) if table.get("api_key") else None,
            placeholder=_("None"),
            key=key("api_key"),
        )
        tokenizer = st.text_input(
            _("Tokenizer folder"),
            table.get("tokenizer", ""),
            key=key("tokenizer"),
            help=_(
                "A folder with the model's tokenizer.json. Counts tokens if the server doesn't, and shows "
                "whether a generic server counts the end-of-sequence token."
            ),
        )
    return {
        "url": url.strip(),
        "dialect": str(dialect),
        "vision": vision,
        "model": model.strip(),
        "api_key": api_key,
        "tokenizer": tokenizer.strip(),
    }


def _request_fields(name: str, table: dict[str, Any]) -> dict[str, Any]:
    """The fields for the dialect of requests and for timeouts."""

    def key(field: str) -> str:
        return f"endpoint_{field}_{name}"

    left, right = st.columns(2)
    with left:
        headers = st.text_area(
            _("Extra headers"),
            "\n".join(f"{header}: {value}" for header, value in table.get("headers", {}).items()),
            key=key("headers"),
            placeholder="X-Team: lab",
            help=_(
                "One header per line. To send a key, write `$` and the key's name as the value. Values are "
                "stored with results, so never write the key itself."
            ),
        )
        length_name = st.selectbox(
            _("Name of the length limit"),
            LENGTH_NAMES,
            index=LENGTH_NAMES.index(table.get("max_tokens_name", LENGTH_NAMES[0])),
            key=key("max_tokens_name"),
        )
        first_token_s = st.number_input(
            _("Time-out for the first token, s"),
            min_value=1.0,
            value=table.get("first_token_timeout_s"),
            key=key("first_token_timeout_s"),
            placeholder=_("default"),
        )
    with right:
        extra_body = st.text_area(
            _("Extra request fields (JSON)"),
            json.dumps(table["extra_body"]) if "extra_body" in table else "",
            key=key("extra_body"),
            placeholder='{"safe_prompt": false}',
        )
        left_out = st.text_input(
            _("Request fields to leave out"),
            ", ".join(table.get("leave_out", ())),
            key=key("leave_out"),
            placeholder="temperature, seed",
        )
        stall_s = st.number_input(
            _("Time-out between two pieces of an answer, s"),
            min_value=1.0,
            value=table.get("stall_timeout_s"),
            key=key("stall_timeout_s"),
            placeholder=_("default"),
        )
    return {
        "headers": headers,
        "extra_body": extra_body,
        "leave_out": left_out,
        "max_tokens_name": length_name,
        "first_token_timeout_s": first_token_s,
        "stall_timeout_s": stall_s,
    }


def _headers(text: str) -> dict[str, str]:
    headers = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, value = line.partition(":")
        if not colon:
            raise InputError(
                N_("“{line}” is not a header.", line=line),
                hint=N_("Write one header per line, such as X-Team: lab."),
            )
        headers[name.strip()] = value.strip()
    return headers


def _json_object(text: str) -> object:
    try:
        return json.loads(text) if text else None
    except ValueError as error:
        raise InputError(
            N_("The extra request fields are not valid JSON: {reason}", reason=error),
            hint=N_("Write a JSON object, such as {example}.", example='{"safe_prompt": false}'),
        ) from error
