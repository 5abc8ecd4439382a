"""Steps that every way of making a model folder has in common.

Made once however many processes ask, in a child process that alone imports the heavy libraries, and moved to
its place as a whole: a half-written model is never seen.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from core import units
from core.errors import ModelError
from core.i18n import N_, Text
from core.models.child_stages import stage_of
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
