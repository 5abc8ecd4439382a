"""Lanes with `engine = "endpoint"`: their tables, how long the requests of any lane wait, and API keys.

A key may come from few places, and may go only to some hosts. Whoever reaches the engines page can name a
key and an address, so neither is enough on its own. A key is either an environment variable whose name
begins with `LMDYNO_KEY_`, or the `key` of a `[keys.NAME]` table in Streamlit's secrets. It goes only to the
hosts that it is bound to: those of the lanes in the lanes file that name it, the `hosts` of its table, and
those in the variable NAME_HOSTS (comma-separated). On the command line, whose user names both, a key whose
hosts are not listed goes to the endpoint that it is given for.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.config.toml_source import IN_QUOTES, NOT_A_TABLE, NOT_TEXT, KeyPath, TomlSource
from core.domain.specs import TIMEOUT, Dialect, EndpointSpec, LaneSpec, Patience, RequestOptions, one_of
from core.errors import ConfigError
from core.i18n import N_, Message
from core.settings import Settings

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


PREFIX = "LMDYNO_KEY_"
HOSTS_SUFFIX = "_HOSTS"
_COMMAND_SUFFIX = "_COMMAND_HOSTS"
"""Of the variable with what a command line binds the key to, for this process and those that it starts."""
_PORTS = {"http": 80, "https": 443}


def key_names(settings: Settings) -> tuple[str, ...]:
    """Names of all keys that there are, without their values. Raises ConfigError for faulty secrets."""
    variables = [name for name in os.environ if _is_variable(name) and KEY_NAME.fullmatch(name)]
    return tuple(sorted({*variables, *(name for name, table in _tables(settings).items() if "key" in table)}))


def api_key(settings: Settings, name: str, url: str) -> str:
    """The key of that name, for requests to that address. It must never be shown or logged.

    Raises ConfigError: there is none (`key-missing`), it is not where keys may stand (`key-name`), or it is
    not for this host (`key-not-for-host`). The name is not repeated, since somebody may have typed the key.
    """
    table = _tables(settings).get(name, {})
    value = (table.get("key") or (os.environ.get(name, "") if _is_variable(name) else "")).strip()
    if not value:
        raise _missing(name)
    bound = [
        *_listed_hosts(table, name),
        *_of_lanes_file(settings, name),
        *os.environ.get(f"{name}{_COMMAND_SUFFIX}", "").split(","),
    ]
    if not any(_covers(entry, url) for entry in bound):
        raise ConfigError(
            N_("The API key isn't allowed for {host}.", host=urlsplit(url).netloc),
            hint=N_(
                "A key is sent only to the hosts it is bound to. Add the host to `hosts` in the key's [keys] "
                "table in .streamlit/secrets.toml, list it in the variable NAME{suffix} (NAME is the key's "
                "name), or define the lane in lanes.toml.",
                suffix=HOSTS_SUFFIX,
            ),
            code="key-not-for-host",
        )
    if not value.isprintable():
        raise ConfigError(
            N_("The key has a line break or another control character in it."),
            hint=N_("Set the key again, on one line."),
            code="key-unusable",
        )
    return str(value)


def bind_for_command(settings: Settings, name: str, url: str) -> None:
    """Allow the key for the URL's host in this process, whose user named both.

    Not a key whose hosts are listed: it goes to those alone. Raises ConfigError for faulty secrets.
    """
    if not _listed_hosts(_tables(settings).get(name, {}), name):
        variable = f"{name}{_COMMAND_SUFFIX}"
        os.environ[variable] = ",".join(filter(None, (os.environ.get(variable), url)))


def _listed_hosts(table: Mapping[str, Any], name: str) -> list[str]:
    """What the key's table and its variable name."""
    listed = (*table.get("hosts", ()), *os.environ.get(f"{name}{HOSTS_SUFFIX}", "").split(","))
    return [stripped for entry in listed if (stripped := entry.strip())]


def _tables(settings: Settings) -> Mapping[str, Mapping[str, Any]]:
    """The `[keys]` of the secrets, checked."""
    secrets = settings.secrets()
    tables = secrets.get("keys", {})
    name = settings.secrets_file.name
    if not isinstance(tables, dict):
        raise ConfigError(
            N_("{file}: keys is not a table.", file=name),
            hint=N_("Write [keys.NAME] with key and hosts below it."),
        )
    for key_name, table in tables.items():
        hosts = table.get("hosts", []) if isinstance(table, dict) else None
        if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
            raise ConfigError(
                N_("{file}: [keys.{name}] is not a key with hosts.", file=name, name=key_name),
                hint=N_(
                    'Write [keys.{name}] with key = "…" and hosts = ["HOST:PORT"] below it.', name=key_name
                ),
            )
        if not isinstance(table.get("key", ""), str) or table.keys() - {"key", "hosts"}:
            raise ConfigError(
                N_("{file}: [keys.{name}] has entries other than key and hosts.", file=name, name=key_name),
                hint=N_('Allowed: key = "…" and hosts = ["HOST:PORT"].'),
            )
    return tables


def _missing(name: str) -> ConfigError:
    """One error for every missing name, so that it doesn't reveal which variables exist."""
    if not _is_variable(name):
        return ConfigError(
            N_("API key variables must have names that start with {prefix}.", prefix=PREFIX),
            hint=N_(
                "Rename the variable to {prefix}… here and in lanes that use it, or add a [keys.NAME] table "
                "with key and hosts to .streamlit/secrets.toml. Enter the name, never the key itself.",
                prefix=PREFIX,
            ),
            code="key-name",
        )
    return ConfigError(
        N_("No API key has this name."),
        hint=N_(
            "Set the environment variable, or add a [keys.NAME] table with key and hosts to "
            ".streamlit/secrets.toml."
        ),
        code="key-missing",
    )


def _is_variable(name: str) -> bool:
    return name.startswith(PREFIX) and not name.endswith(HOSTS_SUFFIX)


def _of_lanes_file(settings: Settings, name: str) -> Iterable[str]:
    """Addresses of the lanes in the lanes file that name the key; those of the dashboard don't count."""
    if not settings.lanes_file.exists():
        return ()
    lanes = TomlSource.read(settings.lanes_file).values.get("lanes", {})
    return [
        table["url"]
        for table in (lanes.values() if isinstance(lanes, dict) else ())
        if isinstance(table, dict) and _names_key(table, name) and isinstance(table.get("url"), str)
    ]


def _names_key(table: Mapping[str, Any], name: str) -> bool:
    """Whether a lane's table sends the key, as its API key or in a header."""
    headers = table.get("headers")
    values = headers.values() if isinstance(headers, dict) else ()
    return table.get("api_key") == name or any(value == f"${name}" for value in values)


def _covers(entry: str, url: str) -> bool:
    """Whether an entry (`host`, `host:port` or an address) names the host of the URL."""
    try:
        there = urlsplit(url)
        port = there.port or _PORTS.get(there.scheme)
        here = urlsplit(entry if "://" in entry else f"//{entry}")
        if not here.hostname or here.hostname != there.hostname:
            return False
        if here.scheme:
            return (here.scheme, here.port or _PORTS.get(here.scheme)) == (there.scheme, port)
        return here.port in (None, port)
    except ValueError:
        return False
