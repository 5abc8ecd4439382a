"""Lanes that were added or changed in the dashboard, kept beside the models in the home folder.

The file has the lanes file's own format and is laid over it: a lane of the same name is replaced, a new one
is added. So the lanes file stays as its author wrote it, comments included.

Whoever reaches the dashboard can write here. So what decides which code runs (`FILE_ONLY_SETTINGS`) is
neither written nor believed: the lanes file alone gives it.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import tomli_w

from core.access.guard import Action, authorise
from core.config.endpoints import endpoint_table, patience_table
from core.config.lanes import read_lanes, read_models
from core.config.toml_source import TomlSource
from core.domain.specs import FILE_ONLY_SETTINGS, SETTINGS_OF, EngineSettings, LaneSpec, ModelSpec
from core.errors import ConfigError
from core.files import write_atomically
from core.i18n import N_
from core.settings import Settings

_HEADER = "# Written by the dashboard and laid over lanes.toml. Delete a table to undo it.\n\n"


def changes_file(settings: Settings) -> Path:
    return settings.home / "lanes.local.toml"


def save_lane(settings: Settings, lane: LaneSpec) -> None:
    """Keep a lane as it is now. Last writer wins; readers never see half a file.

    Raises AccessDenied; and ConfigError, keeping nothing, for a lane that can't be read again, or that has
    other `FILE_ONLY_SETTINGS` than the lanes file gives it (`lanes-file-only`).
    """
    authorise(Action.CHANGE_LANE, lane.name)
    if lane.is_local:
        in_file = {known.name: known for known in file_lanes(settings)}
        _require_from_file(lane, in_file.get(lane.name))
    table = endpoint_table(lane) if lane.endpoint else _engine_table(lane)
    checked = TomlSource("The lane", {"lanes": {lane.name: table}}, {})
    read_lanes(checked, [lane.model] if lane.model else [], settings.home)
    _write(settings, {**_tables(settings), lane.name: table})


def endpoint_lane(settings: Settings, name: str, table: Mapping[str, Any]) -> LaneSpec:
    """The lane of an endpoint's table, as the lanes file would read it. Raises ConfigError."""
    source = TomlSource("The lane", {"lanes": {name: dict(table)}}, {})
    (lane,) = read_lanes(source, [], settings.home)
    return lane


def read_changes(
    settings: Settings, models: Sequence[ModelSpec], base: Sequence[LaneSpec]
) -> tuple[LaneSpec, ...]:
    """The lanes that the dashboard keeps, over the lanes that there are without it.

    Raises ConfigError for a file that someone edited by hand and that can't be read, or that sets what only
    the lanes file may set.
    """
    path = changes_file(settings)
    if not path.exists():
        return ()
    by_name = {lane.name: lane for lane in base}
    source = TomlSource.read(path)
    changed = read_lanes(source, models, path.parent)
    return tuple(_with_file_settings(source, lane, by_name.get(lane.name)) for lane in changed)


def forget_lane(settings: Settings, name: str) -> bool:
    """Remove the dashboard's changes of a lane; False if there are none. Raises AccessDenied."""
    authorise(Action.REMOVE_LANE, name)
    tables = _tables(settings)
    if tables.pop(name, None) is None:
        return False
    _write(settings, tables)
    return True


def changed_lanes(settings: Settings) -> frozenset[str]:
    """Names of the lanes that the dashboard keeps something for."""
    return frozenset(_tables(settings))


def file_lanes(settings: Settings) -> tuple[LaneSpec, ...]:
    """The lanes of the lanes file alone; none without such a file. Raises ConfigError."""
    if not settings.lanes_file.exists():
        return ()
    source = TomlSource.read(settings.lanes_file)
    return read_lanes(source, read_models(source, settings), settings.lanes_file.parent)


def _tables(settings: Settings) -> dict[str, Any]:
    path = changes_file(settings)
    return dict(tomllib.loads(path.read_text("utf-8"))["lanes"]) if path.exists() else {}


def _write(settings: Settings, tables: dict[str, Any]) -> None:
    path = changes_file(settings)
    if not tables:
        path.unlink(missing_ok=True)
        return
    write_atomically(path, (_HEADER + tomli_w.dumps({"lanes": tables})).encode())


def _require_from_file(lane: LaneSpec, base: LaneSpec | None) -> None:
    for name, value in _file_only(base).items():
        if getattr(lane.settings, name) != value:
            raise ConfigError(
                N_("{key} of lane {lane} can be set only in the lanes file.", key=name, lane=lane.name),
                hint=N_(
                    "The setting decides which code runs on this machine. Set it under [lanes.{lane}] in "
                    "lanes.toml.",
                    lane=lane.name,
                ),
                code="lanes-file-only",
            )


def _with_file_settings(source: TomlSource, lane: LaneSpec, base: LaneSpec | None) -> LaneSpec:
    """The lane with what the lanes file alone may give; versions before kept it here as well."""
    given = source.values["lanes"][lane.name]
    for name, value in _file_only(base).items():
        if name in given and getattr(lane.settings, name) != value:
            raise ConfigError(
                source.error(("lanes", lane.name, name), N_("{key} can't be set here."), "").message,
                hint=N_(
                    "The setting decides which code runs on this machine. Move it to [lanes.{lane}] in "
                    "lanes.toml.",
                    lane=lane.name,
                ),
                code="lanes-file-only",
            )
    settings = replace(lane.settings, **_file_only(base))
    # Where a lane runs says the lanes file too, and nothing here is in its way.
    return replace(lane, settings=settings, node=base.node if base else None)


def _file_only(base: LaneSpec | None) -> dict[str, Any]:
    settings = base.settings if base else EngineSettings()
    return {name: getattr(settings, name) for name in sorted(FILE_ONLY_SETTINGS)}


def _engine_table(lane: LaneSpec) -> dict[str, Any]:
    assert lane.model is not None
    table: dict[str, Any] = {
        "engine": str(lane.kind),
        "model": lane.model.name,
        "weights": str(lane.weights),
    }
    defaults = asdict(EngineSettings())
    for name, value in asdict(lane.settings).items():
        if name in SETTINGS_OF[lane.kind] - FILE_ONLY_SETTINGS and value != defaults[name]:
            table[name] = list(value) if isinstance(value, tuple) else value
    return table | patience_table(lane.patience)
