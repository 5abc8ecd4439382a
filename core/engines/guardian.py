"""Ends engines whose LMDyno process is gone: `python -m core.engines.guardian HOME SECONDS`.

A process that is killed can't end its engines, and they would keep their GPUs. So each home with engines has
one guardian, a small process in a session of its own, which looks at engines.json once a second. An engine
whose owner has gone stays for a while, so that a restarted dashboard can take it over; if nobody does and no
request uses it, it ends. The guardian ends itself when there is nothing left to guard.
"""

import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from core import process_setup
from core.domain.turns import ErrorInfo
from core.engines import supervisor
from core.engines.registry import EngineEntry, EngineState, Registry, sole_use
from core.engines.resolve import observed
from core.engines.supervisor import TERM_GRACE_S, Target
from core.errors import EngineBusy
from core.files import keep_to_oneself, lock_path, private_folder, try_lock, unlock
from core.i18n import N_
from core.settings import PROJECT_ROOT, Settings
from core.telemetry.processes import this_process
from core.units import duration

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_MOST_FAILURES = 600
"""Looks that fail one after another until the guardian gives up."""
_ENDED = (EngineState.STOPPED, EngineState.FAILED)
_UNDER_WAY = (EngineState.STARTING, EngineState.STOPPING)


def see_to_guardian(settings: Settings) -> None:
    """Start the home's guardian unless one runs; call it once engines.json holds what is to be guarded."""
    after_s = settings.end_engines_after_s
    try:
        if after_s is None or _is_running(settings):
            return
        process = _start(settings, after_s)
    except OSError as exc:
        # An engine without a guardian is better than none; the next look tries again.
        log.warning("guardian not started reason=%s", exc)
        return
    # It may end before this process does; nobody else would take its exit status.
    threading.Thread(target=process.wait, name="engines-guardian", daemon=True).start()


def _start(settings: Settings, after_s: float) -> "subprocess.Popen[bytes]":
    log_file = private_folder(settings.logs_dir) / "guardian.log"
    with os.fdopen(os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "core.engines.guardian", str(settings.home), str(after_s)],
            cwd=PROJECT_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def is_guarded(entry: EngineEntry) -> bool:
    """Whether the engine must not outlive those who see to it."""
    return entry.state not in _ENDED and (entry.owner is not None or entry.state in _UNDER_WAY)


def is_abandoned(entry: EngineEntry) -> bool:
    """Whether whoever would end this engine, or is starting or stopping it, is gone."""
    if entry.state in _UNDER_WAY:
        return not entry.worker.alive
    return is_guarded(entry) and entry.owner is not None and not entry.owner.alive


@dataclass(slots=True)
class Guardian:
    """The guardian's work; call `look` repeatedly."""

    settings: Settings
    after_s: float
    grace_s: float = TERM_GRACE_S
    registry: Registry = field(init=False)
    abandoned_s: dict[str, float] = field(default_factory=dict)
    """Since when an engine has been abandoned and unused, on the monotonic clock, by the id of its start."""

    def __post_init__(self) -> None:
        self.registry = Registry(self.settings)

    def look(self, now_s: float) -> None:
        """End what has been abandoned for long enough."""
        abandoned = [entry for entry in self.registry.read().values() if is_abandoned(entry)]
        since = {entry.start_id: self.abandoned_s.get(entry.start_id, now_s) for entry in abandoned}
        self.abandoned_s = since
        for entry in abandoned:
            try:
                with sole_use(self.settings, entry.name):
                    if now_s - since[entry.start_id] >= self.after_s:
                        self._end(entry)
            except EngineBusy:
                since[entry.start_id] = now_s  # the time begins with the end of the last request

    def leave(self, lock: int) -> bool:
        """Give up the lock if nothing is guarded any more; tells whether it has.

        Nobody can add an engine meanwhile: who adds one later finds the lock free and starts a guardian.
        """
        if not self.settings.home.is_dir():
            return True
        with self.registry.changing() as engines:
            if any(is_guarded(entry) for entry in engines.values()):
                return False
            unlock(lock)
            return True

    def _end(self, entry: EngineEntry) -> None:
        with self.registry.changing() as engines:
            current = engines.get(entry.name)
            if current is None or current.start_id != entry.start_id or not is_abandoned(current):
                return  # somebody has taken it over
            before = observed(current)
            engines[entry.name] = current.to(EngineState.STOPPING, worker=this_process(), stage=None)
        log.warning("engine abandoned lane=%s, ending it", entry.name)
        supervisor.end([Target(current.process, entry.start_id)], grace_s=self.grace_s)
        with self.registry.changing() as engines:
            current = engines.get(entry.name)
            if current is not None and current.start_id == entry.start_id:
                engines[entry.name] = self._ended(current, before)

    def _ended(self, entry: EngineEntry, before: EngineEntry) -> EngineEntry:
        """The entry after the end; an engine that had failed before keeps its reason."""
        if before.state is EngineState.FAILED:
            return entry.to(EngineState.FAILED, error=before.error).without_process()
        error = ErrorInfo(
            code="engine-abandoned",
            message=N_(
                "The engine was stopped: LMDyno had exited, and nobody used the engine for {time}.",
                time=duration(self.after_s),
            ),
            hint=N_("Start it again. LMDYNO_END_ENGINES_AFTER sets how long engines wait."),
        )
        return entry.to(EngineState.STOPPED, error=error).without_process()


def _lock(settings: Settings) -> Path:
    return lock_path(settings.locks_dir, "guardian")


def _is_running(settings: Settings) -> bool:
    lock = try_lock(_lock(settings))
    if lock is None:
        return True
    unlock(lock)
    return False


def main(home: Path, after_s: float) -> None:
    keep_to_oneself()
    process_setup.configure_logs()
    settings = Settings(home=home, lanes_file=home / "lanes.toml", database_url="")
    # Whoever looks whether a guardian runs holds the lock for a moment.
    lock = try_lock(_lock(settings), patience_s=0.2)
    if lock is None:
        return
    guardian = Guardian(settings, after_s)
    failures = 0
    while failures < _MOST_FAILURES:
        try:
            if guardian.leave(lock):
                return
            guardian.look(time.monotonic())
            failures = 0
        except Exception:
            # A full disk may have room again; engines must not stay for want of a second try.
            log.exception("engines not looked at")
            failures += 1
        time.sleep(_LOOK_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
