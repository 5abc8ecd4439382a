"""The `[models.NAME]` tables, and the paths of the demo models."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from core.config.toml_source import IN_QUOTES, NOT_A_TABLE, NOT_TEXT, TomlSource
from core.domain.specs import ModelSpec
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
