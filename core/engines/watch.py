"""The engines of a home as telemetry needs them: their processes, what happened to them, what their logs say.

Any LMDyno process can watch; it reads engines.json, the leases and the logs, and changes nothing.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from core.engines.leases import in_use
from core.engines.log.file import read_start
from core.engines.registry import EngineEntry, EngineState, Registry
from core.memory.kv_cache import KvLog, kv_is_reserved, read_kv_log, weights_are_loaded
from core.settings import Settings
from core.telemetry.processes import ProcessId
from core.telemetry.samples import EngineProcess, EngineView, Event, EventLog

_ALIVE_NS = 400_000_000
"""How long a process is taken to be there after it was seen; asking the system costs most of a look."""


class EngineWatch:
    """Lists the engines for a sampler, ten times per second, and notes events. Thread-safe."""

    def __init__(self, settings: Settings, *, now_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self._settings = settings
        self._registry = Registry(settings)
        self._now_ns = now_ns
        self._events = EventLog()
        self._lock = threading.Lock()
        """Protects what the logs said."""
        self._kv_logs: dict[str, tuple[str, KvLog | None]] = {}
        self._seen_ns: dict[ProcessId, int] = {}

    def __call__(self) -> tuple[EngineProcess, ...]:
        """The running engines; an engine is busy while it starts and while a request runs."""
        processes, views = [], []
        now_ns = self._now_ns()
        for entry in self._registry.read().values():
            running = self._is_running(entry, now_ns)
            used = running and entry.state is EngineState.HEALTHY and in_use(self._settings, entry.name)
            views.append(_view(entry, running=running, used=used))
            if running and entry.process is not None:
                busy = used or entry.state is EngineState.STARTING
                gpus = entry.gpus
                processes.append(EngineProcess(name=entry.name, pid=entry.process.pid, gpus=gpus, busy=busy))
        self._events.observe(now_ns, views)
        return tuple(processes)

    def _is_running(self, entry: EngineEntry, now_ns: int) -> bool:
        if entry.process is None:
            return False
        if now_ns - self._seen_ns.get(entry.process, -_ALIVE_NS) < _ALIVE_NS:
            return True
        if not entry.process.alive:
            self._seen_ns.pop(entry.process, None)
            return False
        self._seen_ns[entry.process] = now_ns
        return True

    def events(self, since_ns: int | None = None) -> tuple[Event, ...]:
        return self._events.events(since_ns)

    def kv_log(self, name: str) -> KvLog | None:
        """Return what the running engine's log says of its KV cache; None if it says nothing (yet)."""
        entry = self._registry.get(name)
        if entry is None or not entry.alive:
            return None
        with self._lock:
            known = self._kv_logs.get(name)
            if known is None or known[0] != entry.start_id or known[1] is None:
                known = (entry.start_id, read_kv_log(read_start(Path(entry.log_file))))
                self._kv_logs[name] = known
            return known[1]


def _view(entry: EngineEntry, *, running: bool, used: bool) -> EngineView:
    starting = running and entry.state is EngineState.STARTING
    ready = running and entry.state is EngineState.HEALTHY
    log = read_start(Path(entry.log_file)) if starting else ""
    return EngineView(
        name=entry.name,
        start_id=entry.start_id,
        running=running,
        ready=ready,
        failed=entry.state is EngineState.FAILED,
        in_use=used,
        weights_loaded=ready or weights_are_loaded(log),
        kv_reserved=kv_is_reserved(log),
    )
