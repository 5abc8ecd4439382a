"""The demo vision model: a small LLaVA over the demo weights that knows drawn scenes.

What was trained lies in `assets/scenes-llava`: the vision tower, the projector, and an adapter for the demo
weights. `prepare` puts them together with the demo weights into a checkpoint in the hub's layout, which every
engine that serves LLaVA can load. Imports no engine library.
"""

import hashlib
import time
from functools import lru_cache
from pathlib import Path

from core.config import DEMO_NAME, VISION_DEMO_NAME, demo_vision_model
from core.domain.specs import ModelSpec
from core.errors import ModelError
from core.i18n import N_
from core.models.build import (
    StageCallback,
    exclusive,
    require_space,
    run_child,
    staging,
)
from core.models.demo import text as demo_text
from core.models.provenance import PROVENANCE_FILE, read_provenance_note, write_provenance
from core.settings import PROJECT_ROOT, Settings

SHIPPED_DIR = PROJECT_ROOT / "assets" / VISION_DEMO_NAME

NEEDED_BYTES = 600 * 2**20
"""The checkpoint with some reserve."""


def is_prepared(settings: Settings) -> bool:
    """Whether all files are there, made from what is shipped. Cheap but for the first call in a process."""
    folder = settings.models_dir / VISION_DEMO_NAME
    names = ("config.json", "model.safetensors", "tokenizer.json", PROVENANCE_FILE)
    return all((folder / name).is_file() for name in names) and _made_from(folder) == _fingerprint()


def prepare(settings: Settings, report: StageCallback) -> ModelSpec:
    """Make sure that the demo vision model is there; returns at once if it is.

    Prepares the demo weights first if need be. Takes 5 to 9 s and 0.5 GB of disk beyond them. Safe to call
    from several threads and processes: one works, the others wait.

    Raises:
        ConfigError: `settings.demo_gguf` names no such file.
        ModelError: no space, no download of the demo weights, missing shipped files, or a failed conversion.
    """
    model = demo_vision_model(settings)
    if is_prepared(settings):
        return model
    _require_shipped()
    demo_text.prepare(settings, report)
    with exclusive(settings, VISION_DEMO_NAME, report):
        if not is_prepared(settings):
            _make(settings, report)
    return model


def _make(settings: Settings, report: StageCallback) -> None:
    began_s = time.time()
    require_space(settings.models_dir, NEEDED_BYTES, N_("The demo vision model"))
    with staging(settings.models_dir / VISION_DEMO_NAME) as folder:
        run_child(
            "core.models.demo.vision_assemble",
            [str(SHIPPED_DIR), str(settings.models_dir / DEMO_NAME), str(folder)],
            settings.logs_dir / f"{VISION_DEMO_NAME}.log",
            report,
        )
        write_provenance(
            folder,
            source={
                "model": VISION_DEMO_NAME,
                "licence": "Apache-2.0",
                "language_model": DEMO_NAME,
                "trained": _fingerprint(),
            },
            changes="vision tower and projector joined to the demo weights; adapter merged into them; "
            "zero-padded as they are",
            packages=("torch", "safetensors"),
            began_s=began_s,
        )
    report(N_("{model} is ready", model=VISION_DEMO_NAME))


def _require_shipped() -> None:
    if not _shipped_files():
        raise ModelError(
            N_("The trained part of the demo vision model is missing from {path}.", path=SHIPPED_DIR),
            hint=N_(
                "It is part of the repository. Restore the folder from there, or train it again with "
                "tools/train_scenes_llava.py."
            ),
            code="shipped-files-missing",
        )


def _shipped_files() -> list[Path]:
    return sorted([*SHIPPED_DIR.glob("part-*.safetensors.xz"), *SHIPPED_DIR.glob("architecture.json")])


def _fingerprint() -> str:
    """Of the shipped files' names and contents: a checkpoint made from others is made anew."""
    return _hash(tuple((path, path.stat().st_mtime_ns) for path in _shipped_files()))


@lru_cache(maxsize=1)
def _hash(files: tuple[tuple[Path, int], ...]) -> str:
    """SHA-256; the times are there so that unchanged files are read once a process."""
    digest = hashlib.sha256()
    for path, _ in files:
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _made_from(folder: Path) -> str | None:
    """The fingerprint in the note that was left with the checkpoint; None if there is none."""
    source = (read_provenance_note(folder) or {}).get("source")
    return source.get("trained") if isinstance(source, dict) else None
