"""The log of one engine: a file that the engine's stdout and stderr go to, and how far a start has come by
it.

It outlives LMDyno, so that the last words of an engine are there for whoever asks, also after a restart.
"""

import os
import re
from pathlib import Path

from core.i18n import N_, Message, Text

_KEPT = 3
_TAIL_BYTES = 64 * 1024
_START_BYTES = 512 * 1024
_LINE_END = re.compile(r"\r\n|\n|\r")  # progress bars repaint their line with \r alone
_HEALTH_CHECK = re.compile(r'"GET /health\b[^"]*" 200')
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_PERCENT = r"[^|]*?(?P<percent>\d+)%\|"
STARTING = N_("Starting")

_STAGES: tuple[tuple[re.Pattern[str], Message], ...] = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"Uvicorn running on|Application startup complete", N_("Almost ready")),
        (r"HINT: +Please open|Started server process", N_("Opening the port")),
        (r"Warm-up finished", N_("Warmed up")),
        (r"Warm-up (?:lengths|for)", N_("Warming up")),
        (r"Object cache budget: (?P<what>[\d.]+ MB)", N_("Reserving the KV cache, {what}")),
        (rf"Converting and de-quantizing GGUF tensors{_PERCENT}", N_("Unpacking weights, {percent}%")),
        (
            rf"^(?:Loading weights from safetensors|Loading weights|Loading){_PERCENT}",
            N_("Loading weights, {percent}%"),
        ),
        (rf"Loading checkpoint shards{_PERCENT}", N_("Loading weights, {percent}%")),
        (r"^\[transformers\] Loading ", N_("Reading the model")),
    )
)


def log_path(logs_dir: Path, name: str) -> Path:
    return logs_dir / f"engine-{name}.log"


def open_log(path: Path) -> int:
    """A descriptor to append to a new log; the logs of the starts before it are kept as `.1`, `.2`, `.3`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in range(_KEPT, 0, -1):
        older = path.with_suffix(f".{number}.log")
        newer = path.with_suffix(f".{number - 1}.log") if number > 1 else path
        if newer.exists():
            newer.replace(older)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def read_tail(path: Path, size_bytes: int = _TAIL_BYTES) -> str:
    """The end of the log, without colours; "" while there is none."""
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - size_bytes)
            file.seek(start)
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return _COLOUR.sub("", text)


def read_since(path: Path, start: int, size_bytes: int = _TAIL_BYTES) -> str:
    """Return what was written since the log had `start` bytes, at most its last `size_bytes`; all that is
    kept of a log that was shortened meanwhile.
    """
    try:
        written = path.stat().st_size - start
    except OSError:
        return ""
    return read_tail(path, min(written, size_bytes) if written >= 0 else size_bytes)


def read_start(path: Path, size_bytes: int = _START_BYTES) -> str:
    """The beginning of the log, which has the start-up; "" without a log."""
    try:
        with path.open("rb") as file:
            return _COLOUR.sub("", file.read(size_bytes).decode("utf-8", "replace"))
    except FileNotFoundError:
        return ""


def lines_of(text: str) -> list[str]:
    """The lines that say something: each repainting of a progress bar is one, LMDyno's questions are none."""
    return [
        line.rstrip() for line in _LINE_END.split(text) if line.strip() and not _HEALTH_CHECK.search(line)
    ]


def tail(path: Path, lines: int) -> list[str]:
    return lines_of(read_tail(path))[-lines:]


def shorten(path: Path, limit_bytes: int) -> None:
    """Empty a log that has grown beyond the limit, keeping its last part.

    The engine appends, so it goes on writing at the new end.
    """
    try:
        if path.stat().st_size <= limit_bytes:
            return
    except FileNotFoundError:
        return
    kept = read_tail(path)
    os.truncate(path, 0)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"[LMDyno: the log was longer than {limit_bytes} bytes]\n{kept}")


def stage_of(line: str) -> Text | None:
    """The stage that a log line shows, in words for people; None if it shows none."""
    for pattern, words in _STAGES:
        if match := pattern.search(line):
            return words.filled(**match.groupdict())
    return None


def last_stage(log: str) -> Text | None:
    """The stage shown by the newest line of a log that shows one."""
    for line in reversed(lines_of(log)):
        if stage := stage_of(line):
            return stage
    return None
