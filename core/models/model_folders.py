"""Folders of models: how every way of making one works, and where each of them comes from.

A model is made once however many processes ask, in a child process that alone imports the heavy libraries,
and moved to its place as a whole: a half-written model is never seen. `provenance.json` in its folder says
how it was made. Loads no weights. Standard library only, since child processes and workers in an engine's
Python import this too.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from core import units
from core.domain.specs import Weights
from core.errors import ModelError
from core.i18n import N_, Text, as_json, from_json
from core.settings import PROJECT_ROOT, Settings

StageCallback = Callable[[Text], None]
"""Takes one line for people about what is being done now."""
_CHILD_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}
PROVENANCE_FILE = "provenance.json"
AWQ_SUFFIX = "-awq"


@contextmanager
def exclusive(settings: Settings, name: str, report: StageCallback) -> Iterator[None]:
    """Hold the model's lock, across threads and processes; the kernel releases it if the holder dies."""
    settings.locks_dir.mkdir(parents=True, exist_ok=True)
    with (settings.locks_dir / f"model-{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(N_("Waiting for another process that is preparing {model}", model=name))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `folder` if the block ends well and is removed if not.

    To be used under the model's lock: what earlier, killed attempts left behind is cleared away, and an
    incomplete `folder` gives way to the new one.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        if folder.exists():
            shutil.rmtree(folder)
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def require_space(folder: Path, needed_bytes: int, model: Text) -> None:
    """Raises ModelError if the disk that `folder` is or will be on has less than `needed_bytes` free."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < needed_bytes:
        raise ModelError(
            N_(
                "{model} needs {needed} of disk space in {folder}, but only {free} are free.",
                model=model,
                needed=units.gib(needed_bytes),
                folder=folder,
                free=units.gib(free_bytes),
            ),
            hint=N_("Free some space, or set LMDYNO_HOME to a folder on another disk."),
            code="disk-full",
        )


def run_child(module: str, arguments: Sequence[str], log_file: Path, report: StageCallback) -> None:
    """Run `python -m module arguments`; its standard output is its progress, a line each.

    Standard error goes to `log_file`. Raises ModelError with its last line if the child fails; a child that
    outlives an exception here (Ctrl-C) is ended.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("w", encoding="utf-8") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=PROJECT_ROOT,
            env={**os.environ, **_CHILD_ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
        )
        with child:
            try:
                assert child.stdout is not None  # for the type checker: PIPE makes one
                for line in child.stdout:
                    report(stage_of(line))
            except BaseException:
                child.terminate()
                raise
    if child.returncode != 0:
        raise _failure(child.returncode, log_file)


def _failure(status: int, log_file: Path) -> ModelError:
    lines = log_file.read_text("utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    if status < 0:
        return ModelError(
            N_("The conversion was ended by signal {signal}.", signal=-status),
            hint=N_("Signal 9 usually means that memory ran out. Log: {path}", path=log_file),
            code="conversion-failed",
        )
    return ModelError(
        N_("The conversion failed: {reason}", reason=last or N_("exit code {code}", code=status)),
        hint=N_("Log: {path}", path=log_file),
        code="conversion-failed",
    )


def say(stage: Text) -> None:
    """Tell the parent process."""
    sys.stdout.write(json.dumps(as_json(stage)) + "\n")
    sys.stdout.flush()


def stage_of(line: str) -> Text:
    """The stage that `say` wrote; any other line is one as it is."""
    try:
        return from_json(json.loads(line))
    except ValueError:
        return line.rstrip()


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
