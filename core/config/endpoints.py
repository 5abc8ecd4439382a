"""The tables of lanes with `engine = "endpoint"`, and how long the requests of any lane wait."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.config.toml_source import IN_QUOTES, NOT_A_TABLE, NOT_TEXT, KeyPath, TomlSource
from core.domain.rules import TIMEOUT, one_of
from core.domain.specs import Dialect, EndpointSpec, LaneSpec, Patience, RequestOptions
from core.errors import ConfigError
from core.i18n import N_, Message

KEY_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
ENDPOINT_KEYS = frozenset(
    {"engine", "url", "model", "dialect", "api_key", "vision", "headers", "extra_body", "max_tokens_name"}
    | {"leave_out", "tokenizer"}
)
PATIENCE_KEYS = frozenset({"first_token_timeout_s", "stall_timeout_s"})
_TEXTS = ("url", "model", "dialect", "api_key", "max_tokens_name", "tokenizer")
_OWN_FIELDS = frozenset({"model", "messages", "stream"})
"""What LMDyno can't do without."""
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LENGTH_NAMES = ("max_tokens", "max_completion_tokens")
_IS = N_("{key} is {value}.")

Table = Mapping[str, Any]


def read_endpoint(source: TomlSource, path: KeyPath, table: Table, base: Path) -> EndpointSpec:
    """The server of a table whose keys are all known; a relative path is taken from `base`. Raises
    ConfigError."""
    for key in _TEXTS:
        if key in table and (not isinstance(table[key], str) or not table[key].strip()):
            raise source.error((*path, key), NOT_TEXT, IN_QUOTES)
    if not isinstance(table.get("vision", True), bool):
        raise source.error(
            (*path, "vision"), _IS, N_("Allowed: true or false."), value=quoted(table["vision"])
        )
    if "url" not in table:
        raise source.error(path, N_("{key} has no url."), N_('Write url = "http://HOST:PORT/v1".'))
    tokenizer = table.get("tokenizer")
    return EndpointSpec(
        url=_url(source, (*path, "url"), table["url"]),
        model=table.get("model"),
        dialect=Dialect(choice(source, (*path, "dialect"), table.get("dialect", Dialect.GENERIC), Dialect)),
        api_key_name=_key_name(source, (*path, "api_key"), table.get("api_key")),
        vision=table.get("vision"),
        request=_options(source, path, table),
        tokenizer=str((base / Path(tokenizer).expanduser()).absolute()) if tokenizer else None,
    )


def read_patience(source: TomlSource, path: KeyPath, table: Table) -> Patience:
    for key in sorted(PATIENCE_KEYS):
        if key in table and not TIMEOUT.accepts(table[key]):
            raise source.error((*path, key), _IS, TIMEOUT.hint, value=quoted(table[key]))
    return Patience(first_token_s=table.get("first_token_timeout_s"), stall_s=table.get("stall_timeout_s"))


def endpoint_table(lane: LaneSpec) -> dict[str, Any]:
    """The table that `read_endpoint` and `read_patience` read as this lane."""
    spec = lane.endpoint
    assert spec is not None
    table = {
        "engine": str(lane.kind),
        "url": spec.url,
        "dialect": str(spec.dialect),
        "model": spec.model,
        "api_key": spec.api_key_name,
        "vision": spec.vision,
        "headers": dict(spec.request.headers) or None,
        "extra_body": json.loads(spec.request.extra_body) if spec.request.extra_body else None,
        "max_tokens_name": spec.request.max_tokens_name,
        "leave_out": list(spec.request.leave_out) or None,
        "tokenizer": spec.tokenizer,
        **patience_table(lane.patience),
    }
    if spec.request.max_tokens_name == RequestOptions().max_tokens_name:
        del table["max_tokens_name"]
    return {key: value for key, value in table.items() if value is not None}


def patience_table(patience: Patience) -> dict[str, float]:
    table = {"first_token_timeout_s": patience.first_token_s, "stall_timeout_s": patience.stall_s}
    return {key: value for key, value in table.items() if value is not None}


def url_problem(value: str) -> tuple[Message, Message] | None:
    """The problem with an endpoint's URL, named as `{key}`, and what is allowed; None without a problem.

    The value is not repeated: it may hold a password or a key.
    """
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not value.isprintable() or " " in value:
        return (
            N_("{key} is not a valid URL."),
            N_("Use a URL such as http://HOST:PORT/v1 or https://HOST/v1."),
        )
    if parts.username is not None or parts.query or parts.fragment:
        return (
            N_("{key} has more than a scheme, host, port, and path."),
            N_(
                "Use a URL such as http://HOST:PORT/v1 or https://HOST/v1. Put a key into a secret, and its "
                "name into api_key."
            ),
        )
    return None


def choice(source: TomlSource, path: KeyPath, value: object, allowed: Iterable[str]) -> str:
    values = tuple(allowed)
    if isinstance(value, str) and value in values:
        return value
    raise source.error(path, _IS, allowed_values(values), value=quoted(value))


def allowed_values(values: Iterable[str]) -> Message:
    return one_of(tuple(str(value) for value in values)).hint


def quoted(value: object) -> str:
    """A value as TOML would have it, near enough for a message."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _options(source: TomlSource, path: KeyPath, table: Table) -> RequestOptions:
    headers = _table(source, (*path, "headers"), table.get("headers", {}))
    for name, value in headers.items():
        if not _HEADER.fullmatch(name) or not isinstance(value, str) or not value.isprintable():
            raise source.error(
                (*path, "headers", name),
                N_("{key} is not a valid HTTP header."),
                N_(
                    'Write NAME = "value" on one line. To send a key, write "$" and the key\'s name as the '
                    "value, never the key itself."
                ),
            )
    extra_body = _table(source, (*path, "extra_body"), table.get("extra_body", {}))
    if taken := _OWN_FIELDS & extra_body.keys():
        raise source.error(
            (*path, "extra_body", min(taken)),
            N_("{key} is set by LMDyno itself."),
            N_("Not allowed here: {names}.", names=", ".join(sorted(_OWN_FIELDS))),
        )
    return RequestOptions(
        headers=tuple((name, value.strip()) for name, value in headers.items()),
        extra_body=json.dumps(extra_body, default=str) if extra_body else "",
        max_tokens_name=choice(
            source, (*path, "max_tokens_name"), table.get("max_tokens_name", LENGTH_NAMES[0]), LENGTH_NAMES
        ),
        leave_out=_leave_out(source, (*path, "leave_out"), table.get("leave_out", [])),
    )


def _leave_out(source: TomlSource, path: KeyPath, names: object) -> tuple[str, ...]:
    usable = isinstance(names, list) and all(
        isinstance(name, str) and _FIELD.fullmatch(name) and name not in _OWN_FIELDS for name in names
    )
    if not isinstance(names, list) or not usable:
        raise source.error(
            path,
            N_("{key} is not a list of request fields."),
            N_(
                'Write a list such as ["temperature", "seed"]. Not allowed: {names}.',
                names=", ".join(sorted(_OWN_FIELDS)),
            ),
        )
    return tuple(dict.fromkeys(names))


def _table(source: TomlSource, path: KeyPath, value: object) -> Table:
    if not isinstance(value, dict):
        raise source.error(path, NOT_A_TABLE, N_("Write {example}.", example='{ NAME = "value" }'))
    return value


def _url(source: TomlSource, path: KeyPath, value: str) -> str:
    value = value.strip()
    if problem := url_problem(value):
        raise source.error(path, *problem)
    return value.rstrip("/")


def _key_name(source: TomlSource, path: KeyPath, value: str | None) -> str | None:
    if value is None or KEY_NAME.fullmatch(value):
        return value
    # The value is not repeated: it may be the key itself.
    raise source.error(
        path,
        N_("{key} is not the name of a secret."),
        N_(
            "Use the name, in capitals, of an environment variable that starts with LMDYNO_KEY_ or of a "
            "[keys] "
            "table in .streamlit/secrets.toml, never the key itself."
        ),
    )


def unknown_key(source: TomlSource, path: KeyPath, allowed: Iterable[str], kind: str) -> ConfigError:
    problem = N_('{key} is not a key of a lane with engine = "{kind}".')
    return source.unknown_key(path, allowed, problem, kind=kind)
