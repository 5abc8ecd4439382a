"""The tables of the lanes file: `[models.NAME]`, `[cluster]` and `[lanes.NAME]`, and defaults of the machine.

A lane is an engine over a model, here or on a node of the Ray cluster, or somebody else's server. The demo
models have paths of their own, and a CPU lane computes in the dtype that its CPU is best at unless the file
says otherwise.
"""

import platform
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath
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
from core.config.toml_source import IN_QUOTES, NOT_A_TABLE, NOT_TEXT, KeyPath, TomlSource
from core.domain.specs import (
    SETTINGS_OF,
    WEIGHTS_OF,
    ClusterSpec,
    EngineKind,
    EngineSettings,
    LaneSpec,
    ModelSpec,
    Weights,
    conflict,
    rule,
)
from core.i18n import N_
from core.settings import Settings

DEMO_NAME = "smollm2-135m-instruct"
DEMO_GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
VISION_DEMO_NAME = "scenes-llava"

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MODEL_KEYS = ("checkpoint", "gguf", "awq")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def demo_model(settings: Settings) -> ModelSpec:
    """The demo model's paths, whether or not it was prepared.

    The GGUF file has a folder to itself: beside a `config.json`, loaders would mix the two up.
    """
    folder = settings.models_dir / DEMO_NAME
    return ModelSpec(
        name=DEMO_NAME,
        checkpoint=str(folder),
        gguf=str(folder / "gguf" / DEMO_GGUF_FILE),
        awq=str(awq_dir(settings, DEMO_NAME)),
    )


def demo_vision_model(settings: Settings) -> ModelSpec:
    """The demo vision model's path, whether or not it was prepared."""
    return ModelSpec(name=VISION_DEMO_NAME, checkpoint=str(settings.models_dir / VISION_DEMO_NAME))


def awq_dir(settings: Settings, name: str) -> Path:
    """Return where the AWQ form of a model goes unless the lanes file names another place."""
    return settings.models_dir / f"{name}-awq"


def read_models(source: TomlSource, settings: Settings) -> tuple[ModelSpec, ...]:
    """All models of the file; raises ConfigError."""
    tables = source.values.get("models", {})
    if not isinstance(tables, dict):
        raise source.error(("models",), NOT_A_TABLE, N_("Write [models.NAME] with its keys below it."))
    return tuple(_read_model(source, settings, name, table) for name, table in tables.items())


def _read_model(source: TomlSource, settings: Settings, name: str, table: object) -> ModelSpec:
    here = ("models", name)
    if not MODEL_NAME.fullmatch(name):
        raise source.error(
            here,
            N_("{key} is not a valid model name."),
            N_("Use letters, digits, dots, hyphens, and underscores."),
        )
    if not isinstance(table, dict):
        raise source.error(
            here, NOT_A_TABLE, N_('Write [models.{name}] with checkpoint = "…" below it.', name=name)
        )
    for key, value in table.items():
        if key not in MODEL_KEYS:
            raise source.unknown_key((*here, key), MODEL_KEYS, N_("{key} is not a key of a model."))
        if not isinstance(value, str) or not value.strip():
            raise source.error((*here, key), NOT_TEXT, IN_QUOTES)
    if "checkpoint" not in table:
        raise source.error(
            here,
            N_("{key} has no checkpoint."),
            N_(
                'Set checkpoint to a folder, a hub ID such as "Qwen/Qwen2.5-7B-Instruct", "demo", or '
                '"demo-vision".'
            ),
        )
    if demo := _DEMOS.get(table["checkpoint"]):
        return _read_demo(source, demo(settings), name, table)
    base = settings.lanes_file.parent
    return ModelSpec(
        name=name,
        checkpoint=_checkpoint(source, settings, name, table["checkpoint"]),
        gguf=_gguf(source, base, name, table["gguf"]) if "gguf" in table else None,
        awq=(_folder(base, table["awq"]) or table["awq"]) if "awq" in table else str(awq_dir(settings, name)),
    )


_DEMOS: Mapping[str, Callable[[Settings], ModelSpec]] = {
    "demo": demo_model,
    "demo-vision": demo_vision_model,
}


def _read_demo(source: TomlSource, demo: ModelSpec, name: str, table: dict[str, str]) -> ModelSpec:
    for key in table:
        if key != "checkpoint":
            raise source.error(
                ("models", name, key),
                N_("{key} can't be set for a demo model."),
                N_("A demo model comes with its own files. Remove the key."),
            )
    return replace(demo, name=name)


def _checkpoint(source: TomlSource, settings: Settings, name: str, value: str) -> str:
    if folder := _folder(settings.lanes_file.parent, value):
        return folder
    if (settings.models_dir / value).is_dir():
        return str(settings.models_dir / value)
    if _HUB_ID.fullmatch(value):
        return value
    raise source.error(
        ("models", name, "checkpoint"),
        N_('{key}: "{value}" is not a folder, a model in {folder}, or a hub ID.'),
        N_(
            "Use a folder, a name that `lmdyno models list` shows, a hub ID (OWNER/NAME), "
            '"demo", or "demo-vision".'
        ),
        value=value,
        folder=settings.models_dir,
    )


def _gguf(source: TomlSource, base: Path, name: str, value: str) -> str:
    if not value.endswith(".gguf"):
        raise source.error(
            ("models", name, "gguf"),
            N_('{key}: "{value}" is not a GGUF file.'),
            N_("Use a path that ends in .gguf."),
            value=value,
        )
    return str((base / Path(value).expanduser()).absolute())


def _folder(base: Path, value: str) -> str | None:
    """The absolute path, for what is written as a path or is a folder beside the lanes file."""
    path = base / Path(value).expanduser()
    return str(path.absolute()) if value.startswith((".", "/", "~")) or path.is_dir() else None


CLUSTER_KEYS = ("address", "home")
ADD_CLUSTER = N_('Add `[cluster]` with `address = "HOST:6379"`.')
"""What to do where nodes are asked for and there is no cluster."""
_ADDRESS = re.compile(r"auto|(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}")
_EXAMPLE = N_('Write address = "auto" or address = "HOST:6379".')


def read_cluster(source: TomlSource) -> ClusterSpec | None:
    """The cluster of the file; None without the table. Raises ConfigError."""
    table = source.values.get("cluster")
    if table is None:
        return None
    here = ("cluster",)
    if not isinstance(table, dict):
        raise source.error(here, NOT_A_TABLE, N_("Write [cluster] with its keys below it."))
    for key in table:
        if key not in CLUSTER_KEYS:
            raise source.unknown_key((*here, key), CLUSTER_KEYS, N_("{key} is not a key of the cluster."))
    if "address" not in table:
        raise source.error(here, N_("{key} has no address."), _EXAMPLE)
    address, home = table["address"], table.get("home")
    if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
        raise source.error((*here, "address"), N_("{key} is not the address of a Ray cluster."), _EXAMPLE)
    if home is not None and not (isinstance(home, str) and PurePosixPath(home).is_absolute()):
        raise source.error(
            (*here, "home"),
            N_("{key} is not an absolute path."),
            N_("The folder is on the nodes, so write the whole path, beginning with a slash."),
        )
    return ClusterSpec(address=address, home=home)


def require_cluster(source: TomlSource, lanes: Sequence[LaneSpec], cluster: ClusterSpec | None) -> None:
    """Raises ConfigError for a lane on a node where there is no cluster."""
    for lane in lanes:
        if lane.node is not None and cluster is None:
            raise source.error(
                ("lanes", lane.name, "node"),
                N_("{key} names a node, but the file has no [cluster]."),
                N_('Add [cluster] with address = "auto" or "HOST:6379" to lanes.toml, or remove the key.'),
            )


_BFLOAT16 = frozenset({"amx_bf16", "avx512_bf16", "bf16", "FEAT_BF16"})
_FLOAT16 = frozenset({"avx512_fp16", "f16c", "asimdhp", "FEAT_FP16"})
_SYSCTL = "hw.optional.arm."


def native_dtype(features: frozenset[str]) -> str:
    """Return what a CPU with these features computes natively; their names are Linux' or those of macOS'
    sysctl.

    The dtype decides over speed, since decoding is bound by the bytes of the weights that are read, and by
    whether the CPU has instructions for it:

    - bfloat16 where it multiplies natively: AMX, AVX512-BF16, Arm's BF16 extension.
    - else float16 where it is at least converted in hardware (AVX512-FP16, F16C, Arm's half precision). On
      an AMD EPYC without AVX-512 the demo model decodes at 12.1 tok/s in float16, 9.8 in bfloat16, and 7.6
      in float32.
    - else float32, which every CPU computes.
    """
    if features & _BFLOAT16:
        return "bfloat16"
    return "float16" if features & _FLOAT16 else "float32"


@cache
def cpu_features() -> frozenset[str]:
    """Return what the operating system says that this CPU can do; empty where it doesn't say."""
    try:
        match platform.system():
            case "Linux":
                return _of_cpuinfo(Path("/proc/cpuinfo").read_text("utf-8"))
            case "Darwin":
                command = ["/usr/sbin/sysctl", "hw.optional.arm"]
                run = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
                return _of_sysctl(run.stdout)
    except (OSError, subprocess.SubprocessError):
        pass
    return frozenset()


def _of_cpuinfo(cpuinfo: str) -> frozenset[str]:
    """The features that all cores have: `flags` on x86, `Features` on Arm."""
    cores = [
        frozenset(value.split())
        for key, _, value in (line.partition(":") for line in cpuinfo.splitlines())
        if key.strip() in ("flags", "Features")
    ]
    return frozenset.intersection(*cores) if cores else frozenset()


def _of_sysctl(text: str) -> frozenset[str]:
    lines = (line.partition(":") for line in text.splitlines())
    return frozenset(name.removeprefix(_SYSCTL) for name, _, value in lines if value.strip() == "1")


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
