"""Lanes that were added or changed in the dashboard, kept beside the models in the home folder.

The file has the lanes file's own format and is laid over it: a lane of the same name is replaced, a new one
is added. So the lanes file stays as its author wrote it, comments included.
"""

import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w

from core.config.lanes import read_lanes
from core.config.toml_source import TomlSource
from core.domain.specs import SETTINGS_OF, EngineSettings, LaneSpec
from core.settings import Settings

_HEADER = "# Written by the dashboard and laid over lanes.toml. Delete a table to undo it.\n\n"


def changes_file(settings: Settings) -> Path:
    return settings.home / "lanes.local.toml"


def save_lane(settings: Settings, lane: LaneSpec) -> None:
    """Keep a lane as it is now. Last writer wins; readers never see half a file.

    Raises ConfigError, and keeps nothing, for a lane that could not be read again.
    """
    table = _endpoint_table(lane) if lane.endpoint else _engine_table(lane)
    checked = TomlSource("The lane", {"lanes": {lane.name: table}}, {})
    read_lanes(checked, [lane.model] if lane.model else [], settings.home)
    _write(settings, {**_tables(settings), lane.name: table})


def forget_lane(settings: Settings, name: str) -> bool:
    """Undo what the dashboard kept for a lane; False if it kept nothing."""
    tables = _tables(settings)
    if tables.pop(name, None) is None:
        return False
    _write(settings, tables)
    return True


def changed_lanes(settings: Settings) -> frozenset[str]:
    """Names of the lanes that the dashboard keeps something for."""
    return frozenset(_tables(settings))


def _tables(settings: Settings) -> dict[str, Any]:
    path = changes_file(settings)
    return dict(tomllib.loads(path.read_text("utf-8"))["lanes"]) if path.exists() else {}


def _write(settings: Settings, tables: dict[str, Any]) -> None:
    path = changes_file(settings)
    if not tables:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(_HEADER + tomli_w.dumps({"lanes": tables}), "utf-8")
    draft.replace(path)


def _engine_table(lane: LaneSpec) -> dict[str, Any]:
    assert lane.model is not None
    table: dict[str, Any] = {
        "engine": str(lane.kind),
        "model": lane.model.name,
        "weights": str(lane.weights),
    }
    defaults = asdict(EngineSettings())
    for name, value in asdict(lane.settings).items():
        if name in SETTINGS_OF[lane.kind] and value != defaults[name]:
            table[name] = list(value) if isinstance(value, tuple) else value
    return table


def _endpoint_table(lane: LaneSpec) -> dict[str, Any]:
    assert lane.endpoint is not None
    table = {
        "engine": str(lane.kind),
        "url": lane.endpoint.url,
        "dialect": str(lane.endpoint.dialect),
        "model": lane.endpoint.model,
        "api_key": lane.endpoint.api_key_name,
        "vision": lane.endpoint.vision,
    }
    return {key: value for key, value in table.items() if value is not None}
