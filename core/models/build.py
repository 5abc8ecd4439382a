"""What every way of making a model folder has in common.

Made once however many processes ask, in a child process that alone imports the heavy libraries, and moved to
its place as a whole: a half-written model is never seen.
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
from importlib import metadata
from pathlib import Path
from typing import Any

from core import units
from core.errors import ModelError
from core.i18n import N_, Text
from core.models.child_stages import stage_of
from core.settings import PROJECT_ROOT, Settings

Report = Callable[[Text], None]
"""Takes one line for people about what is being done now."""

PROVENANCE_FILE = "provenance.json"

_CHILD_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}


@contextmanager
def exclusive(settings: Settings, name: str, report: Report) -> Iterator[None]:
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


def require_space(folder: Path, needed_bytes: int, what: Text) -> None:
    """Raises ModelError if the disk that `folder` is or will be on has less than `needed_bytes` free."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < needed_bytes:
        raise ModelError(
            N_(
                "{model} needs {needed} of disk space in {folder}, but only {free} are free.",
                model=what,
                needed=units.gib(needed_bytes),
                folder=folder,
                free=units.gib(free_bytes),
            ),
            hint=N_("Free some space, or set LMDYNO_HOME to a folder on another disk."),
            code="disk-full",
        )


def run_child(module: str, arguments: Sequence[str], log_file: Path, report: Report) -> None:
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
    text = json.dumps(note, indent=2, ensure_ascii=False)
    (folder / PROVENANCE_FILE).write_text(text + "\n", "utf-8")


def read_provenance_note(folder: Path) -> dict[str, Any] | None:
    """The note that `write_provenance` left in `folder`; None if there is none or it can't be read."""
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
