"""The settings of one endpoint: everything that its table in the lanes file can say."""

import json
from typing import Any

import streamlit as st

from core.config.changes import endpoint_lane
from core.config.endpoints import LENGTH_NAMES, endpoint_table
from core.config.keys import key_names
from core.domain.specs import Dialect, LaneSpec
from core.errors import ConfigError, InputError
from core.i18n import N_, _
from core.ui.shared import resources

DIALECT_NAMES = {
    Dialect.LMDEPLOY: "LMDeploy",
    Dialect.TRANSFORMERS: "transformers serve",
    Dialect.VLLM: "vLLM",
    Dialect.SGLANG: "SGLang",
    Dialect.LLAMACPP: "llama.cpp",
    Dialect.GENERIC: N_("any OpenAI-compatible server"),
}
_IMAGES = {None: N_("Ask the server"), True: N_("Yes"), False: N_("No")}


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
