"""One engine process: spawned in its own group with a log, asked for its health, ended with what it started.

Knows processes, ports and HTTP; knows nothing of lanes, files of state or other engines. An engine may have
been spawned by another LMDyno process that is gone; everything but its exit code works the same then.

Its log is a file that its stdout and stderr go to, and tells how far a start has come. It outlives LMDyno, so
that the last words of an engine are there for whoever asks, also after a restart.
"""

import http.client
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import EngineNotInstalled
from core.files import usual_umask
from core.i18n import N_, Message, Text
from core.telemetry import processes
from core.telemetry.processes import ProcessId

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

MARK = "LMDYNO_ENGINE"
"""Environment variable that an engine's processes carry, with the id of their start."""

TERM_GRACE_S = 10.0
_KILL_GRACE_S = 5.0
_POLL_S = 0.05
_OWN_VARIABLES = ("LMDYNO_", "STREAMLIT_")

_children: dict[ProcessId, subprocess.Popen[bytes]] = {}
"""What this process spawned and did not end yet; only a parent learns an exit code."""
_children_lock = threading.Lock()
"""Protects `_children`, which start-up threads and the manager's threads share."""


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


def free_port(host: str) -> int:
    """A free port. Another program may take it before the engine does."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def spawn(argv: Sequence[str], environment: Mapping[str, str], *, start_id: str, log_file: Path) -> ProcessId:
    """Start an engine as leader of its own session, its output going to a new log file.

    Raises EngineNotInstalled if its interpreter can't be executed.
    """
    output = open_log(log_file)
    try:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**_clean_environment(), **environment, MARK: start_id},
            cwd=log_file.parent,
            start_new_session=True,
            umask=usual_umask(),  # what an engine downloads is shared with other programs
        )
    except OSError as exc:
        raise EngineNotInstalled(
            N_("Can't run the engine's Python: {path}", path=argv[0]),
            hint=N_("Correct python = … in lanes.toml. The system reports: {reason}", reason=exc.strerror),
            code="engine-python",
        ) from exc
    finally:
        os.close(output)
    # Until it is reaped, a child is listed even if it has ended at once.
    process = processes.identify(child.pid) or ProcessId(child.pid, time.time())
    with _children_lock:
        _children[process] = child
    return process


def _clean_environment() -> dict[str, str]:
    """LMDyno's environment without what concerns only itself, such as the store's address."""
    return {key: value for key, value in os.environ.items() if not key.startswith(_OWN_VARIABLES)}


def alive(process: ProcessId) -> bool:
    """Whether the engine's leading process runs; reaps it if it was this process's child."""
    with _children_lock:
        child = _children.get(process)
    if child is not None:
        return child.poll() is None
    return process.alive


def reap() -> None:
    """Reap child processes that have ended; their exit codes are kept."""
    with _children_lock:
        for child in _children.values():
            child.poll()


def exit_code(process: ProcessId) -> int | None:
    """Return how it ended, negative for a signal; None while it runs, and for other processes' children."""
    with _children_lock:
        child = _children.get(process)
    return child.poll() if child is not None else None


def answers(host: str, port: int, path: str, timeout_s: float) -> bool:
    """Whether a GET of the health path is answered with 200."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def is_served_by(process: ProcessId, port: int) -> bool:
    """Whether it is the engine that listens on the port, and not a program that took it meanwhile."""
    return processes.listens_on(processes.tree(process.pid), port)


@dataclass(frozen=True, slots=True)
class Target:
    """An engine to end: its leading process, if it was spawned at all, and the id of its start."""

    process: ProcessId | None
    start_id: str

    def family(self) -> set[ProcessId]:
        """All living processes of the engine: its leader's descendants, and whatever carries its mark."""
        found = set(processes.with_environment(MARK, self.start_id))
        if self.process is not None and self.process.alive:
            members = (processes.identify(pid) for pid in processes.tree(self.process.pid))
            found.update(member for member in members if member is not None)
        return found


def end(targets: Sequence[Target], *, grace_s: float = TERM_GRACE_S) -> None:
    """End engines and all that they started: SIGTERM to their groups, then SIGKILL to what is left.

    Returns when all of it is gone, a few seconds after `grace_s` at most. Children that left the group or
    outlived their parent are found too; a process that is neither a descendant nor carries the mark is never
    touched. Starts no threads, so it works at the interpreter's exit.
    """
    families = [target.family() for target in targets]
    for target, family in zip(targets, families, strict=True):
        _signal(target, family, signal.SIGTERM)
    _wait_gone(set().union(*families), grace_s)
    # The second look also finds what was started since the first.
    families = [family | target.family() for target, family in zip(targets, families, strict=True)]
    for target, family in zip(targets, families, strict=True):
        _signal(target, family, signal.SIGKILL)
    _wait_gone(set().union(*families), _KILL_GRACE_S)
    for target in targets:
        _reap(target.process)


def _signal(target: Target, family: set[ProcessId], number: signal.Signals) -> None:
    """The group at once, and then those that are not in it: twice the same signal can mean something else."""
    leader = target.process
    outside = {member for member in family if leader is None or processes.group_of(member.pid) != leader.pid}
    if leader is not None and alive(leader):
        processes.send_signal_to_group(leader, number)
    else:
        outside = family
    for member in outside:
        processes.send_signal(member, number)


def _wait_gone(family: set[ProcessId], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while any(alive(member) for member in family) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _reap(process: ProcessId | None) -> None:
    if process is not None:
        with _children_lock:
            child = _children.pop(process, None)
        if child is not None:
            child.poll()
