"""`lanes.toml`: the models, lanes and endpoints of this LMDyno; without it, lanes that fit the machine.

`[models.NAME]` names a checkpoint and what was derived from it, `[lanes.NAME]` an engine over a model or a
server's URL. Every mistake is a ConfigError with the line, the key and what is allowed. Whether a folder
holds a model is found out when an engine starts.

Lanes that were added or changed in the dashboard are kept in the home folder, in the lanes file's own format,
and laid over the others: a lane of the same name is replaced, a new one is added. So the lanes file stays as
its author wrote it, comments included. Whoever reaches the dashboard can write there. So what decides which
code runs (`FILE_ONLY_SETTINGS`) is neither written nor believed: the lanes file alone gives it.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from core.access.guard import Action, authorise
from core.config.endpoints import endpoint_table, patience_table
from core.config.lanes import (
    DEMO_GGUF_FILE,
    DEMO_NAME,
    LANE_NAME,
    VISION_DEMO_NAME,
    awq_dir,
    cpu_features,
    demo_model,
    demo_vision_model,
    native_dtype,
    read_cluster,
    read_lanes,
    read_models,
    require_cluster,
)
from core.config.toml_source import TomlSource
from core.domain.specs import (
    FILE_ONLY_SETTINGS,
    SETTINGS_OF,
    ClusterSpec,
    EngineKind,
    EngineSettings,
    LaneSpec,
    ModelSpec,
    Weights,
)
from core.errors import ConfigError
from core.files import write_atomically
from core.i18n import N_, Message
from core.settings import Settings

__all__ = [
    "DEMO_GGUF_FILE",
    "DEMO_NAME",
    "LANE_NAME",
    "VISION_DEMO_NAME",
    "LaneRegistry",
    "awq_dir",
    "changed_lanes",
    "changes_file",
    "demo_model",
    "demo_vision_model",
    "endpoint_lane",
    "file_lanes",
    "forget_lane",
    "load_cluster",
    "load_lanes",
    "save_lane",
]


_TABLES = ("models", "lanes", "cluster")
_HEADER = "# Written by the dashboard and laid over lanes.toml. Delete a table to undo it.\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneRegistry:
    """All lanes that can be picked, in the file's order, and the models they use."""

    models: tuple[ModelSpec, ...]
    lanes: tuple[LaneSpec, ...]
    source: Path | None
    """The lanes file; None for the defaults of the machine."""
    cluster: ClusterSpec | None = None
    """The Ray cluster that lanes can run on; None without `[cluster]`."""

    def lane(self, name: str) -> LaneSpec:
        """The lane of that name; raises ConfigError with the names there are."""
        for lane in self.lanes:
            if lane.name == name:
                return lane
        raise ConfigError(N_('There is no lane "{name}".', name=name), hint=_known(self.lanes))

    def model(self, name: str) -> ModelSpec:
        """The model of that name; raises ConfigError with the names there are."""
        for model in self.models:
            if model.name == name:
                return model
        raise ConfigError(N_('There is no model "{name}".', name=name), hint=_known(self.models))


def load_lanes(settings: Settings, *, gpu: bool) -> LaneRegistry:
    """The lanes of the lanes file, or the machine's own if there is none.

    Args:
        settings: tells where the lanes file and the models folder are.
        gpu: an NVIDIA GPU is here; decides only over the defaults.

    Raises:
        ConfigError: with line, key and what is allowed; `lanes-file-missing` if it was named but isn't there.
    """
    if settings.lanes_named and not settings.lanes_file.exists():
        raise ConfigError(
            N_("The lanes file {path} doesn't exist.", path=settings.lanes_file),
            hint=N_(
                "Correct the path in LMDYNO_LANES, or unset the variable to use the default lanes for "
                "this machine."
            ),
            code="lanes-file-missing",
        )
    registry = _from_file(settings) if settings.lanes_file.exists() else _defaults(settings, gpu=gpu)
    registry = _with_changes(settings, registry)
    return _with_quantised(registry) if gpu else registry


def load_cluster(settings: Settings) -> ClusterSpec | None:
    """The cluster alone, for processes that were given their lanes. Raises ConfigError."""
    return read_cluster(TomlSource.read(settings.lanes_file)) if settings.lanes_file.exists() else None


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
    _write_changes(settings, {**_changed_tables(settings), lane.name: table})


def endpoint_lane(settings: Settings, name: str, table: Mapping[str, Any]) -> LaneSpec:
    """The lane of an endpoint's table, as the lanes file would read it. Raises ConfigError."""
    source = TomlSource("The lane", {"lanes": {name: dict(table)}}, {})
    (lane,) = read_lanes(source, [], settings.home)
    return lane


def forget_lane(settings: Settings, name: str) -> bool:
    """Remove the dashboard's changes of a lane; False if there are none. Raises AccessDenied."""
    authorise(Action.REMOVE_LANE, name)
    tables = _changed_tables(settings)
    if tables.pop(name, None) is None:
        return False
    _write_changes(settings, tables)
    return True


def changed_lanes(settings: Settings) -> frozenset[str]:
    """Names of the lanes that the dashboard keeps something for."""
    return frozenset(_changed_tables(settings))


def file_lanes(settings: Settings) -> tuple[LaneSpec, ...]:
    """The lanes of the lanes file alone; none without such a file. Raises ConfigError."""
    if not settings.lanes_file.exists():
        return ()
    source = TomlSource.read(settings.lanes_file)
    return read_lanes(source, read_models(source, settings), settings.lanes_file.parent)


def _from_file(settings: Settings) -> LaneRegistry:
    source = TomlSource.read(settings.lanes_file)
    for key in source.values:
        if key not in _TABLES:
            raise source.unknown_key((key,), _TABLES, N_("{key} is not a key of the lanes file."))
    models = read_models(source, settings)
    lanes = read_lanes(source, models, settings.lanes_file.parent)
    cluster = read_cluster(source)
    require_cluster(source, lanes, cluster)
    return LaneRegistry(models=models, lanes=lanes, source=settings.lanes_file, cluster=cluster)


def _with_changes(settings: Settings, registry: LaneRegistry) -> LaneRegistry:
    """The lanes with those that the dashboard keeps laid over them.

    Raises ConfigError for a file that someone edited by hand and that can't be read, or that sets what only
    the lanes file may set.
    """
    path = changes_file(settings)
    if not path.exists():
        return registry
    by_name = {lane.name: lane for lane in registry.lanes}
    source = TomlSource.read(path)
    changed = {
        lane.name: _with_file_settings(source, lane, by_name.get(lane.name))
        for lane in read_lanes(source, registry.models, path.parent)
    }
    return replace(registry, lanes=tuple((by_name | changed).values()))


def _with_quantised(registry: LaneRegistry) -> LaneRegistry:
    """A lane for each model whose W4A16 form has been made since, unless one loads it already."""
    served = {lane.model.name for lane in registry.lanes if lane.kind is EngineKind.AWQ and lane.model}
    names = {lane.name for lane in registry.lanes}
    added = [
        LaneSpec(name=name, kind=EngineKind.AWQ, model=model, weights=Weights.AWQ)
        for model in registry.models
        if model.name not in served and model.awq and (Path(model.awq).expanduser() / "config.json").is_file()
        if (name := _lane_name(f"{model.name}-awq")) not in names
    ]
    return replace(registry, lanes=(*registry.lanes, *added))


def _lane_name(text: str) -> str:
    """The text as a lane may be called, its end kept."""
    return re.sub(r"[^a-z0-9._-]", "-", text.lower())[-32:].lstrip("._-")


def _defaults(settings: Settings, *, gpu: bool) -> LaneRegistry:
    demo, vision = demo_model(settings), demo_vision_model(settings)
    lanes: tuple[LaneSpec, ...]
    if gpu:
        hf = EngineSettings(dtype="float16")
        lanes = (
            LaneSpec(name="hf", kind=EngineKind.TRANSFORMERS, model=demo, settings=hf),
            LaneSpec(name="turbomind", kind=EngineKind.TURBOMIND, model=demo),
            LaneSpec(name="awq", kind=EngineKind.AWQ, model=demo, weights=Weights.AWQ),
            LaneSpec(name="llava-hf", kind=EngineKind.TRANSFORMERS, model=vision, settings=hf),
            LaneSpec(name="llava-pt", kind=EngineKind.PYTORCH, model=vision, settings=hf),
        )
    else:
        hf = EngineSettings(dtype=native_dtype(cpu_features()), device="cpu")
        q4 = EngineSettings(device="cpu")
        lanes = (
            LaneSpec(name="hf", kind=EngineKind.TRANSFORMERS, model=demo, settings=hf),
            LaneSpec(
                name="hf-q4",
                kind=EngineKind.TRANSFORMERS,
                model=demo,
                weights=Weights.GGUF,
                settings=q4,
            ),
            LaneSpec(name="llava-hf", kind=EngineKind.TRANSFORMERS, model=vision, settings=hf),
        )
    return LaneRegistry(models=(demo, vision), lanes=lanes, source=None)


def _changed_tables(settings: Settings) -> dict[str, Any]:
    path = changes_file(settings)
    return dict(tomllib.loads(path.read_text("utf-8"))["lanes"]) if path.exists() else {}


def _write_changes(settings: Settings, tables: dict[str, Any]) -> None:
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


def _known(entries: Iterable[LaneSpec | ModelSpec]) -> Message:
    names = ", ".join(entry.name for entry in entries)
    return N_("Available: {names}.", names=names) if names else N_("None are available.")
