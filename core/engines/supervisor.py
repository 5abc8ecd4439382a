"""One engine process: spawned in its own group, asked for its health, ended with everything it started.

Knows processes, ports and HTTP; knows nothing of lanes, files of state or other engines. An engine may have
been spawned by another LMDyno process that is gone; everything but its exit code works the same then.
"""

import http.client
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.engines.log.file import open_log
from core.errors import EngineNotInstalled
from core.files import usual_umask
from core.i18n import N_
from core.telemetry import processes
from core.telemetry.processes import ProcessId

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
