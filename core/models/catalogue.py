"""The models on disk: names, forms, sizes and origins.

Reads names, sizes and provenance notes; loads no weights.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.domain.specs import Weights
from core.models.provenance import read_provenance_note
from core.settings import Settings

AWQ_SUFFIX = "-awq"


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
    return tuple(StoredModel(name=name, forms=tuple(found)) for name, found in sorted(forms.items()))


def _forms(folder: Path, kind: Weights) -> list[StoredForm]:
    note = read_provenance_note(folder)
    own_files = [path for path in folder.iterdir() if path.is_file()]
    size_bytes = sum(path.stat().st_size for path in own_files)
    forms = [StoredForm(weights=kind, path=folder, size_bytes=size_bytes, provenance=note)]
    for gguf in sorted(folder.glob("gguf/*.gguf")):
        size_bytes = gguf.stat().st_size
        forms.append(StoredForm(weights=Weights.GGUF, path=gguf, size_bytes=size_bytes, provenance=note))
    return forms
