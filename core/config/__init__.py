"""`lanes.toml`: the models, lanes and endpoints of this LMDyno; without it, lanes that fit the machine.

`[models.NAME]` names a checkpoint and what was derived from it, `[lanes.NAME]` an engine over a model or a
server's URL. Every mistake is a ConfigError with the line, the key and what is allowed. Whether a folder
holds a model is found out when an engine starts. Lanes that were added or changed in the dashboard
(`core.config.changes`) are laid over both.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from core.config.changes import read_changes
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
from core.domain.specs import ClusterSpec, EngineKind, EngineSettings, LaneSpec, ModelSpec, Weights
from core.errors import ConfigError
from core.i18n import N_, Message
from core.settings import Settings

__all__ = [
    "DEMO_GGUF_FILE",
    "DEMO_NAME",
    "LANE_NAME",
    "VISION_DEMO_NAME",
    "LaneRegistry",
    "awq_dir",
    "demo_model",
    "demo_vision_model",
    "load_cluster",
    "load_lanes",
]


_TABLES = ("models", "lanes", "cluster")


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
    changed = read_changes(settings, registry.models, registry.lanes)
    by_name = {lane.name: lane for lane in (*registry.lanes, *changed)}
    return replace(registry, lanes=tuple(by_name.values()))


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


def _known(entries: Iterable[LaneSpec | ModelSpec]) -> Message:
    names = ", ".join(entry.name for entry in entries)
    return N_("Available: {names}.", names=names) if names else N_("None are available.")
