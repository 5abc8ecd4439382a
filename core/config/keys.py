"""API keys of endpoints: where they may come from, and which hosts each may go to.

Whoever reaches the engines page can name a key and an address, so neither is enough on its own. A key is
either an environment variable whose name begins with `LMDYNO_KEY_`, or the `key` of a `[keys.NAME]` table in
Streamlit's secrets. It goes only to the hosts that it is bound to: those of the lanes in the lanes file that
name it, the `hosts` of its table, and those in the variable NAME_HOSTS (comma-separated). On the command
line, whose user names both, a key whose hosts are not listed goes to the endpoint that it is given for.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from core.config.endpoints import KEY_NAME
from core.config.toml_source import TomlSource
from core.errors import ConfigError
from core.i18n import N_
from core.settings import Settings

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
