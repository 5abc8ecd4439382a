"""The `[lanes.NAME]` tables: engines over models, and other people's servers."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.config.endpoints import (
    ENDPOINT_KEYS,
    PATIENCE_KEYS,
    allowed_values,
    choice,
    quoted,
    read_endpoint,
    read_patience,
    unknown_key,
)
from core.config.toml_source import NOT_A_TABLE, KeyPath, TomlSource
from core.domain.rules import conflict, rule
from core.domain.specs import (
    SETTINGS_OF,
    WEIGHTS_OF,
    EngineKind,
    EngineSettings,
    LaneSpec,
    ModelSpec,
    Weights,
)
from core.i18n import N_

LANE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
LOCAL_KEYS = frozenset({"engine", "model", "weights", "node"})
_IS = N_("{key} is {value}.")

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
        if dotted := next((key for key, value in table.items() if isinstance(value, dict)), None):
            raise source.error(
                here,
                N_("{key} has no engine."),
                N_('A lane name with a dot needs quotes: write [lanes."{name}"].', name=f"{name}.{dotted}"),
            )
        raise source.error(here, N_("{key} has no engine."), allowed_values(EngineKind))
    kind = EngineKind(choice(source, (*here, "engine"), table["engine"], EngineKind))
    allowed = ENDPOINT_KEYS if kind is EngineKind.ENDPOINT else LOCAL_KEYS | SETTINGS_OF[kind]
    for key in table:
        if key not in allowed | PATIENCE_KEYS:
            raise unknown_key(source, (*here, key), allowed | PATIENCE_KEYS, kind)
    patience = read_patience(source, here, table)
    if kind is EngineKind.ENDPOINT:
        endpoint = read_endpoint(source, here, table, base)
        return LaneSpec(name=name, kind=kind, endpoint=endpoint, patience=patience)
    model = _model(source, models, here, table)
    return LaneSpec(
        name=name,
        kind=kind,
        model=model,
        weights=_weights(source, here, kind, model, table),
        settings=_settings(source, base, here, kind, table),
        patience=patience,
        node=_node(source, here, table),
    )


def _node(source: TomlSource, path: KeyPath, table: Table) -> str | None:
    name = table.get("node")
    if name is None or (isinstance(name, str) and NODE_NAME.fullmatch(name)):
        return name
    raise source.error(
        (*path, "node"),
        N_("{key} is not the name of a node."),
        N_("Use the name that the node was started with: `ray start --node-name=NAME`."),
    )


def _model(source: TomlSource, models: Mapping[str, ModelSpec], path: KeyPath, table: Table) -> ModelSpec:
    known = allowed_values(models) if models else N_("Add a model first: write [models.NAME].")
    if "model" not in table:
        raise source.error(path, N_("{key} has no model."), known)
    name = table["model"]
    if not isinstance(name, str) or name not in models:
        raise source.error(
            (*path, "model"), N_("{key} is {value}, which is not in [models]."), known, value=quoted(name)
        )
    return models[name]


def _weights(source: TomlSource, path: KeyPath, kind: EngineKind, model: ModelSpec, table: Table) -> Weights:
    allowed = WEIGHTS_OF[kind]
    weights = Weights(choice(source, (*path, "weights"), table.get("weights", allowed[0]), allowed))
    if model.path(weights) is None:
        raise source.error(
            (*path, "weights"),
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
    source: TomlSource, base: Path, path: KeyPath, kind: EngineKind, table: Table
) -> EngineSettings:
    given = {key: value for key, value in table.items() if key in SETTINGS_OF[kind]}
    for key, value in given.items():
        if not (needed := rule(kind, key)).accepts(value):
            raise source.error((*path, key), _IS, needed.hint, value=quoted(value))
    if "devices" in given:
        given["devices"] = tuple(given["devices"])
    if "python" in given:
        # Not resolved: an environment's interpreter is a link, and only by its own path knows its packages.
        given["python"] = str((base / Path(given["python"]).expanduser()).absolute())
    settings = EngineSettings(**given)
    if contradiction := conflict(settings):
        key, hint = contradiction
        raise source.error((*path, key), _IS, hint, value=quoted(given[key]))
    return settings
