"""Looks after the engines of one manager: notes deaths within half a second, silence within some.

A loaded CPU makes an engine answer its health check late. So silence is told and never punished; what ends an
engine is its own death or a person's wish.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from core.domain.specs import EngineKind
from core.domain.turns import ErrorInfo
from core.engines import supervisor
from core.engines.guardian import is_guarded, see_to_guardian
from core.engines.launch.table import LaunchRow
from core.engines.log.diagnose import explain_death
from core.engines.log.file import read_tail, shorten
from core.engines.registry import EngineEntry, EngineState, Registry, replica_logs
from core.engines.supervisor import Target
from core.engines.unfinished import StoppedRequests
from core.settings import Settings
from core.telemetry.processes import ProcessId

log = logging.getLogger(__name__)

_DEATH_INTERVAL_S = 0.25
_HEALTH_INTERVAL_S = 10.0
_STOPPED_INTERVAL_S = 0.5
_HEALTH_TIMEOUT_S = 5.0
_LOG_LIMIT_BYTES = 64 * 2**20
_ORPHAN_GRACE_S = 1.0


class Monitor:
    """Four threads over the engines in the registry, from the first `start` until `stop`. Thread-safe."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        rows: Mapping[EngineKind, LaunchRow],
        me: ProcessId,
        stopped: StoppedRequests,
        on_orphan: Callable[[EngineEntry], None],
        host: str,
    ) -> None:
        """`on_orphan` is called, again and again, with engines that run and whose owner is gone."""
        self._settings = settings
        self._registry = registry
        self._stopped_requests = stopped
        self._rows = rows
        self._me = me
        self._on_orphan = on_orphan
        self._host = host
        self._started = threading.Lock()
        """Taken once, by the first start, and never given back."""
        self._stopped = threading.Event()
        self._answered_s: dict[str, float] = {}
        """Monotonic time of each engine's last answer, by the id of its start. Written by one thread."""

    def start(self) -> None:
        """Begin; does nothing when it has begun already."""
        if self._started.acquire(blocking=False):
            self._repeat("engines-deaths", _DEATH_INTERVAL_S, self._look_for_deaths)
            self._repeat("engines-health", _HEALTH_INTERVAL_S, self._ask_for_health)
            self._repeat("engines-guarded", _HEALTH_INTERVAL_S, self._see_to_guardian)
            self._repeat("engines-stopped-requests", _STOPPED_INTERVAL_S, self._look_at_stopped_requests)

    def stop(self) -> None:
        """End for good; an engine that dies from now on is noticed by whoever looks at it."""
        self._stopped.set()

    def silent_s(self, entry: EngineEntry) -> float:
        """Seconds since the engine last answered; 0 if it was not asked yet."""
        now = time.monotonic()
        return now - self._answered_s.get(entry.start_id, now)

    def _repeat(self, name: str, interval_s: float, work: Callable[[], None]) -> None:
        def loop() -> None:
            while not self._stopped.wait(interval_s):
                work()

        threading.Thread(target=loop, name=name, daemon=True).start()

    def _look_for_deaths(self) -> None:
        supervisor.reap()
        for entry in self._registry.read().values():
            if entry.state is not EngineState.HEALTHY or entry.process is None:
                continue
            if self._me in (entry.owner, entry.worker):
                for log_file in (Path(entry.log_file), *replica_logs(entry)):
                    shorten(log_file, _LOG_LIMIT_BYTES)
                if not supervisor.alive(entry.process):
                    self._note_death(entry, entry.process)
            elif entry.owner is not None and not entry.owner.alive:
                self._on_orphan(entry)

    def _note_death(self, entry: EngineEntry, process: ProcessId) -> None:
        error = explain_death(read_tail(Path(entry.log_file)), supervisor.exit_code(process))
        with self._registry.changing() as engines:
            current = engines.get(entry.name)
            if current is None or current.start_id != entry.start_id:
                return
            if current.state is not EngineState.HEALTHY:
                return  # it was stopped, not lost
            engines[entry.name] = current.to(EngineState.FAILED, error=ErrorInfo.of(error)).without_process()
        log.warning("engine died lane=%s code=%s", entry.name, error.code)
        supervisor.end([Target(process, entry.start_id)], grace_s=_ORPHAN_GRACE_S)

    def _see_to_guardian(self) -> None:
        """The guardian may have been killed too."""
        if any(is_guarded(entry) for entry in self._registry.read().values()):
            see_to_guardian(self._settings)

    def _look_at_stopped_requests(self) -> None:
        """Forget stopped requests once their engines are idle, so that all who look see it."""
        for entry in self._registry.read().values():
            self._stopped_requests.is_finishing(entry)

    def _ask_for_health(self) -> None:
        for entry in self._registry.read().values():
            if entry.state is not EngineState.HEALTHY or entry.port is None or not entry.alive:
                continue
            path = self._rows[entry.lane.kind].health_path
            if supervisor.answers(self._host, entry.port, path, _HEALTH_TIMEOUT_S):
                self._answered_s[entry.start_id] = time.monotonic()
            else:
                self._answered_s.setdefault(entry.start_id, time.monotonic())
