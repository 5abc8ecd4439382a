"""The `[lanes.NAME]` tables: engines over models, and other people's servers."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.config.toml_source import KeyPath, TomlSource
from core.domain.rules import conflict, one_of, rule
from core.domain.specs import (
    SETTINGS_OF,
    WEIGHTS_OF,
    Dialect,
    EndpointSpec,
    EngineKind,
    EngineSettings,
    LaneSpec,
    ModelSpec,
    Weights,
)

LANE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_ENDPOINT_KEYS = ("engine", "url", "model", "dialect", "api_key", "vision")
_LOCAL_KEYS = frozenset({"engine", "model", "weights"})
KEY_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")

Table = Mapping[str, Any]


def read_lanes(source: TomlSource, models: Sequence[ModelSpec], base: Path) -> tuple[LaneSpec, ...]:
    """All lanes of the file, relative paths taken from `base`; raises ConfigError."""
    tables = source.values.get("lanes", {})
    if not isinstance(tables, dict) or not tables:
        raise source.error(
            ("lanes",), "has no lane", 'Write [lanes.NAME] and engine = "…" below, at least once.'
        )
    by_name = {model.name: model for model in models}
    return tuple(_read_lane(source, by_name, base, name, table) for name, table in tables.items())


def _read_lane(
    source: TomlSource, models: Mapping[str, ModelSpec], base: Path, name: str, table: object
) -> LaneSpec:
    here = ("lanes", name)
    if not LANE_NAME.fullmatch(name):
        raise source.error(
            here,
            "is no name for a lane",
            "Allowed: up to 32 small letters, digits, dots, hyphens and underscores, "
            "a letter or digit first.",
        )
    if not isinstance(table, dict):
        raise source.error(here, "is not a table", f'Write [lanes.{name}] and engine = "…" below.')
    if "engine" not in table:
        raise source.error(here, "has no engine", f"Allowed: engine = {_names(EngineKind)}.")
    kind = EngineKind(_choice(source, (*here, "engine"), table["engine"], tuple(EngineKind)))
    if kind is EngineKind.ENDPOINT:
        return LaneSpec(name=name, kind=kind, endpoint=_endpoint(source, here, table))
    for key in table:
        if key not in _LOCAL_KEYS | SETTINGS_OF[kind]:
            raise source.unknown_key(
                (*here, key), _LOCAL_KEYS | SETTINGS_OF[kind], f'a lane with engine = "{kind}"'
            )
    model = _model(source, models, here, table)
    return LaneSpec(
        name=name,
        kind=kind,
        model=model,
        weights=_weights(source, here, kind, model, table),
        settings=_settings(source, base, here, kind, table),
    )


def _model(source: TomlSource, models: Mapping[str, ModelSpec], here: KeyPath, table: Table) -> ModelSpec:
    known = _names(models) if models else "none yet, write [models.NAME] first"
    if "model" not in table:
        raise source.error(here, "has no model", f"Allowed: model = {known}.")
    name = table["model"]
    if not isinstance(name, str) or name not in models:
        raise source.error(
            (*here, "model"), f"names {_quoted(name)}, which is not in [models]", f"Allowed: {known}."
        )
    return models[name]


def _weights(source: TomlSource, here: KeyPath, kind: EngineKind, model: ModelSpec, table: Table) -> Weights:
    allowed = WEIGHTS_OF[kind]
    weights = Weights(_choice(source, (*here, "weights"), table.get("weights", allowed[0]), allowed))
    if model.path(weights) is None:
        raise source.error(
            (*here, "weights"),
            f'asks for "{weights}", which the model {model.name} does not have',
            f"Add {weights} = … to [models.{model.name}], or choose other weights.",
        )
    return weights


def _settings(
    source: TomlSource, base: Path, here: KeyPath, kind: EngineKind, table: Table
) -> EngineSettings:
    given = {key: value for key, value in table.items() if key in SETTINGS_OF[kind]}
    for key, value in given.items():
        if not (needed := rule(kind, key)).accepts(value):
            raise source.error((*here, key), f"is {_quoted(value)}", f"Allowed: {needed.allowed}.")
    if "devices" in given:
        given["devices"] = tuple(given["devices"])
    if "python" in given:
        # Not resolved: an environment's interpreter is a link, and only by its own path knows its packages.
        given["python"] = str((base / Path(given["python"]).expanduser()).absolute())
    settings = EngineSettings(**given)
    if found := conflict(settings):
        key, allowed = found
        raise source.error((*here, key), f"is {_quoted(given[key])}", f"Allowed: {allowed}.")
    return settings


def _endpoint(source: TomlSource, here: KeyPath, table: Table) -> EndpointSpec:
    for key, value in table.items():
        if key not in _ENDPOINT_KEYS:
            raise source.unknown_key((*here, key), _ENDPOINT_KEYS, 'a lane with engine = "endpoint"')
        if key == "vision":
            if not isinstance(value, bool):
                raise source.error((*here, key), f"is {_quoted(value)}", "Allowed: true or false.")
        elif not isinstance(value, str) or not value.strip():
            raise source.error((*here, key), "is not a text", 'Allowed: text in "double quotes".')
    if "url" not in table:
        raise source.error(here, "has no url", 'Allowed: url = "http://HOST:PORT/v1".')
    dialect = table.get("dialect", Dialect.GENERIC)
    return EndpointSpec(
        url=_url(source, (*here, "url"), table["url"]),
        model=table.get("model"),
        dialect=Dialect(_choice(source, (*here, "dialect"), dialect, tuple(Dialect))),
        api_key_name=_key_name(source, (*here, "api_key"), table.get("api_key")),
        vision=table.get("vision"),
    )


def _url(source: TomlSource, path: KeyPath, value: str) -> str:
    if problem := url_problem(value):
        raise source.error(path, *problem)
    return value.rstrip("/")


def url_problem(value: str) -> tuple[str, str] | None:
    """What is wrong with an endpoint's URL and what is allowed; None if nothing is.

    The value is not repeated: it may hold a password or a key.
    """
    allowed = "Allowed: an address such as http://HOST:PORT/v1 or https://HOST/v1."
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        return "is not a web address", allowed
    if parts.username is not None or parts.query or parts.fragment:
        return (
            "has more than scheme, host, port and path",
            f"{allowed} A key goes into a secret named by api_key.",
        )
    return None


def _key_name(source: TomlSource, path: KeyPath, value: str | None) -> str | None:
    if value is None or KEY_NAME.fullmatch(value):
        return value
    # The value is not repeated: it may be the key itself.
    raise source.error(
        path,
        "is not the name of a secret",
        "Allowed: the NAME, in capitals, of an environment variable that begins with LMDYNO_KEY_, or of a "
        "[keys] table in .streamlit/secrets.toml; never the key itself.",
    )


def _choice(source: TomlSource, path: KeyPath, value: object, allowed: Sequence[str]) -> str:
    if isinstance(value, str) and value in allowed:
        return value
    raise source.error(
        path, f"is {_quoted(value)}", f"Allowed: {one_of(tuple(str(a) for a in allowed)).allowed}."
    )


def _names(names: Iterable[str]) -> str:
    return " or ".join(f'"{name}"' for name in names)


def _quoted(value: object) -> str:
    """A value as TOML would have it, near enough for a message."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
