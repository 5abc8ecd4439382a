"""The models on disk and where they come from: `provenance.json` inside the folder of a checkpoint made here.

Reads names, sizes and provenance notes; loads no weights. Standard library only for what workers use.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from core.domain.specs import Weights
from core.settings import Settings

PROVENANCE_FILE = "provenance.json"
AWQ_SUFFIX = "-awq"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """The way in which a W4A16 checkpoint was made."""

    tool: str
    source: str
    """The checkpoint it was made from."""
    source_config_sha256: str
    calibration: str
    """The name of the text or set; `none` without data."""
    calibration_sha256: str | None
    """Of a text that was here; None for a hub's set and without data."""
    calibration_file: str | None = None
    """The text's file beside this one, where the model wrote it itself."""
    samples: int
    """0 without data."""
    seqlen: int | None
    search_scale: bool
    batch_size: int
    rounding: str = "nearest"
    """`nearest` or `compensated`."""
    dtype: str
    bits: int
    group_size: int
    versions: dict[str, str]
    device: str
    """The GPU's name, or `cpu`."""
    started_at: str
    """ISO 8601, UTC."""
    duration_s: float
    source_bytes: int
    result_bytes: int

    def write(self, folder: Path) -> None:
        _write(folder, asdict(self))


def write_provenance(
    folder: Path,
    *,
    source: Mapping[str, object],
    changes: str,
    packages: Sequence[str],
    began_s: float,
) -> None:
    """Write where the folder's content comes from into `folder`.

    Args:
        source: what it was made from (names, sizes, checksums).
        changes: what was done to it, in words.
        packages: the libraries whose versions matter.
        began_s: `time.time()` at the start of the work.
    """
    now_s = time.time()
    note = {
        "schema_version": 1,
        "source": dict(source),
        "changes": changes,
        "versions": {name: _version(name) for name in packages},
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s)),
        "duration_s": round(now_s - began_s, 1),
    }
    _write(folder, note)


def read_provenance_note(folder: Path) -> dict[str, Any] | None:
    """The content of a folder's provenance, of whatever form; None if there is none or it can't be read."""
    try:
        note = json.loads((folder / PROVENANCE_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _write(folder: Path, content: Mapping[str, object]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (folder / PROVENANCE_FILE).write_text(f"{text}\n", "utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredForm:
    """One form of a model."""

    weights: Weights
    path: Path
    """A folder, or the file of a GGUF."""
    size_bytes: int
    provenance: dict[str, Any] | None
    """The note left by whatever made it; None if there is none or it can't be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A model and the forms of it that are complete."""

    name: str
    forms: tuple[StoredForm, ...]

    @property
    def size_bytes(self) -> int:
        return sum(form.size_bytes for form in self.forms)


def list_models(settings: Settings) -> tuple[StoredModel, ...]:
    """All models in the models folder, by name; unfinished ones are left out."""
    forms: dict[str, list[StoredForm]] = {}
    if settings.models_dir.is_dir():
        for folder in sorted(settings.models_dir.iterdir()):
            if folder.name.startswith(".") or not (folder / "config.json").is_file():
                continue
            is_awq = folder.name.endswith(AWQ_SUFFIX)
            name = folder.name.removesuffix(AWQ_SUFFIX)
            kind = Weights.AWQ if is_awq else Weights.CHECKPOINT
            forms.setdefault(name, []).extend(_forms(folder, kind))
    return tuple(
        StoredModel(name=name, forms=tuple(model_forms)) for name, model_forms in sorted(forms.items())
    )


def _forms(folder: Path, kind: Weights) -> list[StoredForm]:
    note = read_provenance_note(folder)
    own_files = [path for path in folder.iterdir() if path.is_file()]
    size_bytes = sum(path.stat().st_size for path in own_files)
    forms = [StoredForm(weights=kind, path=folder, size_bytes=size_bytes, provenance=note)]
    for gguf in sorted(folder.glob("gguf/*.gguf")):
        size_bytes = gguf.stat().st_size
        forms.append(StoredForm(weights=Weights.GGUF, path=gguf, size_bytes=size_bytes, provenance=note))
    return forms
