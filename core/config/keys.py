"""API keys of endpoints: where they may come from, and which hosts each may go to.

Whoever reaches the engines page can name a key and an address, so neither is enough on its own. A key is
either an environment variable whose name begins with `LMDYNO_KEY_`, or the `key` of a `[keys.NAME]` table in
Streamlit's secrets. It goes only to the hosts that it is bound to: those of the lanes in the lanes file that
name it, the `hosts` of its table, and those in the variable NAME_HOSTS (comma-separated).
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from core.config.lanes import KEY_NAME
from core.config.toml_source import TomlSource
from core.errors import ConfigError
from core.settings import Settings

PREFIX = "LMDYNO_KEY_"
HOSTS_SUFFIX = "_HOSTS"
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
    value = table.get("key") or (os.environ.get(name, "").strip() if _is_variable(name) else "")
    if not value:
        raise _missing(name)
    bound = [
        *table.get("hosts", ()),
        *_of_lanes_file(settings, name),
        *os.environ.get(f"{name}{HOSTS_SUFFIX}", "").split(","),
    ]
    if not any(_covers(entry.strip(), url) for entry in bound):
        raise ConfigError(
            f"The key is not for {urlsplit(url).netloc}",
            hint="A key goes only to the hosts that it is bound to. In .streamlit/secrets.toml, add the host "
            f"to `hosts` of the key's [keys] table; or set the variable NAME{HOSTS_SUFFIX}, with the key's "
            "name for NAME; or write the lane in lanes.toml.",
            code="key-not-for-host",
        )
    if not value.isprintable():
        raise ConfigError(
            "The key has a line break or another control character in it",
            hint="Set it again, on one line.",
            code="key-unusable",
        )
    return str(value)


def _tables(settings: Settings) -> Mapping[str, Mapping[str, Any]]:
    """The `[keys]` of the secrets, checked."""
    secrets = settings.secrets()
    tables = secrets.get("keys", {})
    name = settings.secrets_file.name
    if not isinstance(tables, dict):
        raise ConfigError(f"{name}: keys is not a table", hint="Write [keys.NAME], and key and hosts below.")
    for key_name, table in tables.items():
        hosts = table.get("hosts", []) if isinstance(table, dict) else None
        if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
            raise ConfigError(
                f"{name}: [keys.{key_name}] is not a key with its hosts",
                hint=f'Write [keys.{key_name}] and below it key = "…" and hosts = ["HOST:PORT"].',
            )
        if not isinstance(table.get("key", ""), str) or table.keys() - {"key", "hosts"}:
            raise ConfigError(
                f"{name}: [keys.{key_name}] has something else than key and hosts",
                hint='Allowed: key = "…" and hosts = ["HOST:PORT"].',
            )
    return tables


def _missing(name: str) -> ConfigError:
    """The same for every name that can't be a key's, so that nobody learns which variables there are."""
    if not _is_variable(name):
        return ConfigError(
            f"Only variables whose names begin with {PREFIX} hold keys",
            hint=f"Rename the variable to {PREFIX}…, also where a lane names it, or write a [keys.NAME] "
            "with key and hosts into .streamlit/secrets.toml. Give the name, never the key itself.",
            code="key-name",
        )
    return ConfigError(
        "There is no key of that name",
        hint="Set the environment variable, or write a table [keys.NAME] with key and hosts into "
        ".streamlit/secrets.toml.",
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
        if isinstance(table, dict) and table.get("api_key") == name and isinstance(table.get("url"), str)
    ]


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
