"""The `[lanes.NAME]` tables: engines over models, and other people's servers."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.config.toml_source import IN_QUOTES, NOT_A_TABLE, NOT_TEXT, KeyPath, TomlSource
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
from core.errors import ConfigError
from core.i18n import N_, Message

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
            ("lanes",),
            N_("{key} has no lane."),
            N_('Write at least one [lanes.NAME] with engine = "…" below it.'),
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
            N_("{key} is not a valid lane name."),
            N_(
                "Use up to 32 lowercase letters, digits, dots, hyphens, or underscores, starting with a "
                "letter "
                "or digit."
            ),
        )
    if not isinstance(table, dict):
        raise source.error(
            here, NOT_A_TABLE, N_('Write [lanes.{name}] with engine = "…" below it.', name=name)
        )
    if "engine" not in table:
        raise source.error(here, N_("{key} has no engine."), _allowed_values(EngineKind))
    kind = EngineKind(_choice(source, (*here, "engine"), table["engine"], tuple(EngineKind)))
    if kind is EngineKind.ENDPOINT:
        return LaneSpec(name=name, kind=kind, endpoint=_endpoint(source, here, table))
    for key in table:
        if key not in _LOCAL_KEYS | SETTINGS_OF[kind]:
            raise _unknown_key(source, (*here, key), _LOCAL_KEYS | SETTINGS_OF[kind], kind)
    model = _model(source, models, here, table)
    return LaneSpec(
        name=name,
        kind=kind,
        model=model,
        weights=_weights(source, here, kind, model, table),
        settings=_settings(source, base, here, kind, table),
    )


def _model(source: TomlSource, models: Mapping[str, ModelSpec], here: KeyPath, table: Table) -> ModelSpec:
    known = _allowed_values(models) if models else N_("Add a model first: write [models.NAME].")
    if "model" not in table:
        raise source.error(here, N_("{key} has no model."), known)
    name = table["model"]
    if not isinstance(name, str) or name not in models:
        raise source.error(
            (*here, "model"), N_("{key} is {value}, which is not in [models]."), known, value=_quoted(name)
        )
    return models[name]


def _weights(source: TomlSource, here: KeyPath, kind: EngineKind, model: ModelSpec, table: Table) -> Weights:
    allowed = WEIGHTS_OF[kind]
    weights = Weights(_choice(source, (*here, "weights"), table.get("weights", allowed[0]), allowed))
    if model.path(weights) is None:
        raise source.error(
            (*here, "weights"),
            N_('{key} is "{weights}", but model {model} has no such weights.'),
            N_(
                "Add {weights} = … to [models.{model}], or choose other weights.",
                weights=str(weights),
                model=model.name,
            ),
            weights=str(weights),
            model=model.name,
        )
    return weights


def _settings(
    source: TomlSource, base: Path, here: KeyPath, kind: EngineKind, table: Table
) -> EngineSettings:
    given = {key: value for key, value in table.items() if key in SETTINGS_OF[kind]}
    for key, value in given.items():
        if not (needed := rule(kind, key)).accepts(value):
            raise source.error((*here, key), _IS, needed.hint, value=_quoted(value))
    if "devices" in given:
        given["devices"] = tuple(given["devices"])
    if "python" in given:
        # Not resolved: an environment's interpreter is a link, and only by its own path knows its packages.
        given["python"] = str((base / Path(given["python"]).expanduser()).absolute())
    settings = EngineSettings(**given)
    if contradiction := conflict(settings):
        key, hint = contradiction
        raise source.error((*here, key), _IS, hint, value=_quoted(given[key]))
    return settings


def _endpoint(source: TomlSource, here: KeyPath, table: Table) -> EndpointSpec:
    for key, value in table.items():
        if key not in _ENDPOINT_KEYS:
            raise _unknown_key(source, (*here, key), _ENDPOINT_KEYS, kind=EngineKind.ENDPOINT)
        if key == "vision":
            if not isinstance(value, bool):
                raise source.error((*here, key), _IS, N_("Allowed: true or false."), value=_quoted(value))
        elif not isinstance(value, str) or not value.strip():
            raise source.error((*here, key), NOT_TEXT, IN_QUOTES)
    if "url" not in table:
        raise source.error(here, N_("{key} has no url."), N_('Write url = "http://HOST:PORT/v1".'))
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


def url_problem(value: str) -> tuple[Message, Message] | None:
    """What is wrong with an endpoint's URL, named as `{key}`, and what is allowed; None if nothing is.

    The value is not repeated: it may hold a password or a key.
    """
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
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


def _choice(source: TomlSource, path: KeyPath, value: object, allowed: Sequence[str]) -> str:
    if isinstance(value, str) and value in allowed:
        return value
    raise source.error(path, _IS, _allowed_values(allowed), value=_quoted(value))


_IS = N_("{key} is {value}.")


def _allowed_values(values: Iterable[str]) -> Message:
    return one_of(tuple(str(value) for value in values)).hint


def _unknown_key(source: TomlSource, path: KeyPath, allowed: Iterable[str], kind: EngineKind) -> ConfigError:
    problem = N_('{key} is not a key of a lane with engine = "{kind}".')
    return source.unknown_key(path, allowed, problem, kind=kind)


def _quoted(value: object) -> str:
    """A value as TOML would have it, near enough for a message."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
