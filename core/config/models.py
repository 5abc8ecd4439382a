"""The `[models.NAME]` tables, and where the demo model lies."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from core.config.toml_source import TomlSource
from core.domain.specs import ModelSpec
from core.settings import Settings

DEMO_NAME = "smollm2-135m-instruct"
DEMO_GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
VISION_DEMO_NAME = "scenes-llava"

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEYS = ("checkpoint", "gguf", "awq")
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
    """Where the AWQ form of a model goes unless the lanes file names another place."""
    return settings.models_dir / f"{name}-awq"


def read_models(source: TomlSource, settings: Settings) -> tuple[ModelSpec, ...]:
    """All models of the file; raises ConfigError."""
    tables = source.values.get("models", {})
    if not isinstance(tables, dict):
        raise source.error(("models",), "is not a table", "Write [models.NAME] and its keys below.")
    return tuple(_read_model(source, settings, name, table) for name, table in tables.items())


def _read_model(source: TomlSource, settings: Settings, name: str, table: object) -> ModelSpec:
    here = ("models", name)
    if not MODEL_NAME.fullmatch(name):
        raise source.error(
            here, "is no name for a model", "Allowed: letters, digits, dot, hyphen, underscore."
        )
    if not isinstance(table, dict):
        raise source.error(here, "is not a table", f'Write [models.{name}] and checkpoint = "…" below.')
    for key, value in table.items():
        if key not in _KEYS:
            raise source.unknown_key((*here, key), _KEYS, "a model")
        if not isinstance(value, str) or not value.strip():
            raise source.error((*here, key), "is not a text", 'Allowed: text in "double quotes".')
    if "checkpoint" not in table:
        raise source.error(
            here,
            "has no checkpoint",
            'Allowed: checkpoint = a folder, a hub id such as "Qwen/Qwen2.5-7B-Instruct", "demo", or '
            '"demo-vision".',
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
                "can't be set for a demo model",
                "A demo model brings the forms that it has: remove the key.",
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
        f'"{value}" is neither a folder here, nor a model in {settings.models_dir}, nor a hub id',
        'Allowed: a folder, a name of "python -m core models list", a hub id (OWNER/NAME), "demo", or '
        '"demo-vision".',
    )


def _gguf(source: TomlSource, base: Path, name: str, value: str) -> str:
    if not value.endswith(".gguf"):
        raise source.error(
            ("models", name, "gguf"), f'"{value}" is no GGUF file', "Allowed: a path ending in .gguf."
        )
    return str((base / Path(value).expanduser()).absolute())


def _folder(base: Path, value: str) -> str | None:
    """The absolute path, for what is written as a path or is a folder beside the lanes file."""
    path = base / Path(value).expanduser()
    return str(path.absolute()) if value.startswith((".", "/", "~")) or path.is_dir() else None
