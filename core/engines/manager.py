"""All engines of this machine for one LMDyno process: start, adopt, stop, tell, and look after them.

One manager a process; any number of threads may use it. What runs is kept in engines.json, so the command
line and a restarted dashboard see and share the same engines.

Deaths are noted within half a second, silence within some. A loaded CPU makes an engine answer its health
check late. So silence is told and never punished; what ends an engine is its own death or a person's wish.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from core.access.guard import Action, authorise
from core.domain.specs import EngineKind, LaneSpec
from core.domain.turns import ErrorInfo, utc_now
from core.engines import status, supervisor
from core.engines.diagnosis import explain_death
from core.engines.guardian import is_guarded, see_to_guardian
from core.engines.launch.table import LAUNCH_TABLE, LaunchRow
from core.engines.placement import LOOPBACK, Devices, GpuView
from core.engines.registry import (
    EngineEntry,
    EngineState,
    Registry,
    in_use,
    replica_log,
    replica_logs,
    sole_use,
)
from core.engines.requests import StoppedRequests
from core.engines.resolve import observed, same_engine
from core.engines.startup import Startup, Surroundings
from core.engines.status import EngineStatus
from core.engines.supervisor import TERM_GRACE_S, Target, log_path, read_tail, shorten, tail
from core.errors import ConfigError, EngineBusy
from core.i18n import N_
from core.settings import Settings
from core.telemetry.processes import ProcessId, this_process

__all__ = ["EngineManager", "EngineStatus"]

log = logging.getLogger(__name__)

_PROGRESS_S = 0.25
_HEALTH_TIMEOUT_S = 5.0
_ADOPTION_S = 60.0
"""An adopted engine that nobody uses and that does not answer for so long is started anew."""
_CLOSE_PATIENCE_S = 2.0

_DEATH_INTERVAL_S = 0.25
_HEALTH_INTERVAL_S = 10.0
_STOPPED_INTERVAL_S = 0.5
_LOG_LIMIT_BYTES = 64 * 2**20
_ORPHAN_GRACE_S = 1.0


class EngineManager:
    """Starts, watches, adopts and stops the engines of the local lanes. Thread-safe.

    Engines belong to the process that started or adopted them and end with its `close`. A process that is
    killed leaves them running: a manager that uses them adopts them, or the guardian ends them. A
    `persistent` manager owns none: its engines run until somebody stops them.
    """

    def __init__(
        self,
        settings: Settings,
        lanes: Sequence[LaneSpec],
        *,
        persistent: bool = False,
        gpu: GpuView | None = None,
        rows: Mapping[EngineKind, LaunchRow] = LAUNCH_TABLE,
        grace_s: float = TERM_GRACE_S,
        port: int | None = None,
        host: str = LOOPBACK,
    ) -> None:
        """Starts nothing and reads nothing yet.

        Args:
            settings: the home whose engines these are.
            lanes: those that `ensure` knows.
            persistent: engines outlive this process.
            gpu: tells GPUs and their free memory; None for a machine without any.
            rows: how each kind of engine is launched.
            grace_s: seconds between SIGTERM and SIGKILL.
            port: where engines listen; None takes a free one for each. A fixed one serves one engine at a
            time.
            host: the address that engines listen on, which must be this machine's.

        Raises ConfigError if the settings say nothing sensible about how long engines outlive LMDyno.
        """
        _ = settings.end_engines_after_s
        self._settings = settings
        self._lanes = {lane.name: lane for lane in lanes}
        self._host = host
        self._me = this_process()
        self._owner = None if persistent else self._me
        self._made_at = utc_now()
        self._closing = threading.Event()
        self._registry = Registry(settings)
        self._around = Surroundings(
            settings=settings,
            registry=self._registry,
            rows=rows,
            devices=Devices(settings, self._registry, gpu, host=host),
            grace_s=grace_s,
            port=port,
        )
        self._stopped = StoppedRequests(settings)
        self._used: set[str] = set()
        """Lanes whose engines this process has asked for."""
        self._adopts_all = False
        self._monitor = Monitor(settings, self._registry, rows, self._me, self._stopped, self._adopt, host)

    def configure(self, lanes: Sequence[LaneSpec]) -> None:
        """Take these lanes instead. What runs stays until it is ensured with other settings."""
        self._lanes = {lane.name: lane for lane in lanes}

    def adopt_orphans(self) -> None:
        """From now on, take over the engine of any lane once its owner is gone, as a dashboard does.

        Without it, only engines that were ensured are taken over.
        """
        self._adopts_all = True
        self._monitor.start()

    def ensure(self, name: str) -> None:
        """See to it that the lane's engine runs; returns at once, start-up goes on in a thread.

        A running one is used, and adopted if its owner is gone. One with other settings is replaced.

        Raises:
            AccessDenied: it does not run, and whoever acts may not start it.
            ConfigError: no such lane.
            EngineBusy: it runs with other settings and can't be replaced: a request runs, or it belongs to
                another LMDyno process.
        """
        lane = self._lane(name)
        if not lane.is_local:
            return
        self._ensure(lane, Action.START_ENGINE)

    def _ensure(self, lane: LaneSpec, action: Action | None) -> None:
        """`action` is to be authorised, unless it has been; an engine that serves needs no leave."""
        name = lane.name
        known = self._registry.get(name)
        if action is not None and (known is None or not _serves(known, lane)):
            authorise(action, name)
        self._used.add(name)
        self._monitor.start()
        with self._registry.changing() as engines:
            current = engines.get(name)
            if current is not None and _serves(current, lane):
                if self._may_adopt(current):
                    self._make_mine(engines, current)
                return
            self._require_replaceable(current)
            engines[name] = entry = self._first_entry(lane)
        self._thread(f"start-{name}", Startup(self._around, entry, current).run)

    def wait_until_healthy(
        self,
        name: str,
        timeout_s: float,
        on_progress: Callable[[EngineStatus], None] | None = None,
    ) -> EngineStatus:
        """Wait for an engine that is starting; `on_progress` is called a few times a second meanwhile.

        Raises EngineError: it failed, was stopped, or is not ready after `timeout_s`, and goes on starting.
        """
        return status.wait_until_healthy(lambda: self.status(name), timeout_s, on_progress)

    def stop(self, name: str, *, force: bool = False) -> None:
        """End the lane's engine and wait until it is gone; nothing happens if there is none.

        Raises EngineBusy while a request holds its lease, unless forced.
        """
        authorise(Action.STOP_ENGINE, name)
        self._stop(name, force=force)

    def _stop(self, name: str, *, force: bool = False) -> None:
        self._used.discard(name)
        with nullcontext() if force else sole_use(self._settings, name):
            entry = self._registry.get(name)
            if entry is not None and entry.state is not EngineState.STOPPED:
                self._end([entry])

    def restart(self, name: str) -> None:
        """Stop the engine and start it with the lane's present settings; raises EngineBusy like `stop`."""
        authorise(Action.RESTART_ENGINE, name)
        self._stop(name)
        lane = self._lane(name)
        if lane.is_local:
            self._ensure(lane, None)

    def status(self, name: str) -> EngineStatus:
        """Return how the lane's engine is now. Cheap. Raises ConfigError for a lane that there isn't."""
        entry = self._registry.get(name)
        if entry is None:
            return status.without_engine(self._lane(name), self._made_at)
        return status.of_engine(
            entry,
            self._lanes.get(name, entry.lane),
            silent_s=self._monitor.silent_s(entry),
            in_use=in_use(self._settings, name),
            stopped_s=self._stopped.since_s(entry.endpoint.url) if entry.endpoint else None,
            owned=entry.owner == self._me,
        )

    def statuses(self) -> tuple[EngineStatus, ...]:
        """All local lanes, then engines that still run for lanes no longer configured. Cheap."""
        local = [name for name, lane in self._lanes.items() if lane.is_local]
        others = [
            entry.name
            for entry in self._registry.read().values()
            if entry.name not in self._lanes and entry.alive
        ]
        return tuple(self.status(name) for name in (*local, *others))

    def log_file(self, name: str) -> Path:
        """Return where the lane's engine writes its log; there is no such file before its first start."""
        return log_path(self._settings.logs_dir, name)

    def log_tail(self, name: str, lines: int = 40, *, replica: int | None = None) -> str:
        """The last lines of the engine's log, or of one of its replicas'; "" before its first start."""
        path = self.log_file(name)
        return "\n".join(tail(path if replica is None else replica_log(path, replica), lines))

    def close(self) -> None:
        """End the engines that belong to this process, and start-ups that it has not finished.

        Starts no threads, so it may run at the interpreter's exit.
        """
        self._closing.set()
        self._monitor.stop()
        mine = [entry for entry in self._registry.read().values() if self._ends_with_me(entry)]
        # A request of the command line may run on an engine of the dashboard; it gets a moment, not more.
        deadline = time.monotonic() + _CLOSE_PATIENCE_S
        while any(in_use(self._settings, entry.name) for entry in mine) and time.monotonic() < deadline:
            time.sleep(0.05)
        self._end(mine)

    def _lane(self, name: str) -> LaneSpec:
        if lane := self._lanes.get(name):
            return lane
        raise ConfigError(
            N_('There is no lane "{name}".', name=name),
            hint=N_("Available: {names}.", names=", ".join(self._lanes))
            if self._lanes
            else N_("None are available."),
        )

    def _first_entry(self, lane: LaneSpec) -> EngineEntry:
        return EngineEntry(
            lane=lane,
            state=EngineState.STARTING,
            since=utc_now(),
            owner=self._owner,
            worker=self._me,
            log_file=str(self.log_file(lane.name)),
        )

    def _adopt(self, entry: EngineEntry) -> None:
        """Take over an engine that this process uses and whose owner is gone."""
        lane = self._lanes.get(entry.name)
        is_used = self._adopts_all or entry.name in self._used
        if lane is None or not is_used or self._closing.is_set():
            return
        with self._registry.changing() as engines:
            current = engines.get(entry.name)
            if current is not None and _serves(current, lane) and self._may_adopt(current):
                self._make_mine(engines, current)

    def _make_mine(self, engines: dict[str, EngineEntry], entry: EngineEntry) -> None:
        engines[entry.name] = mine = replace(entry, owner=self._owner)
        self._thread(f"adopt-{entry.name}", lambda: self._verify(mine))

    def _may_adopt(self, entry: EngineEntry) -> bool:
        orphaned = entry.owner is not None and not entry.owner.alive
        return orphaned and entry.state is EngineState.HEALTHY and self._owner is not None

    def _require_replaceable(self, entry: EngineEntry | None) -> None:
        if entry is None or not _is_up(entry):
            return
        if entry.owner is None or (entry.owner != self._me and entry.owner.alive):
            if entry.owner is None:
                message = N_(
                    "The engine of {lane} is already running with different settings.", lane=entry.name
                )
            else:
                message = N_(
                    "Another LMDyno process runs the engine of {lane} with different settings.",
                    lane=entry.name,
                )
            raise EngineBusy(
                message,
                hint=N_("Stop it first: `lmdyno engines stop {lane}`.", lane=entry.name),
                code="engine-settings-differ",
            )
        with sole_use(self._settings, entry.name):
            return  # nobody uses it now; requests that come later find it starting and wait

    def _verify(self, entry: EngineEntry) -> None:
        """Look whether an adopted engine really is the one that was left; otherwise start it anew."""
        path = self._around.rows[entry.lane.kind].health_path
        deadline = time.monotonic() + _ADOPTION_S
        while entry.process is not None and entry.port is not None and supervisor.alive(entry.process):
            answers = supervisor.answers(self._host, entry.port, path, _HEALTH_TIMEOUT_S)
            if answers and supervisor.is_served_by(entry.process, entry.port):
                log.info("engine adopted lane=%s pid=%d", entry.name, entry.process.pid)
                return
            if time.monotonic() >= deadline and not in_use(self._settings, entry.name):
                break
            if self._closing.wait(_PROGRESS_S):
                return
        log.warning("engine can't be adopted lane=%s", entry.name)
        with self._registry.changing() as engines:
            if engines[entry.name].start_id != entry.start_id:
                return
            engines[entry.name] = fresh = self._first_entry(entry.lane)
        Startup(self._around, fresh, entry).run()

    def _ends_with_me(self, entry: EngineEntry) -> bool:
        unfinished = entry.state is EngineState.STARTING and entry.worker == self._me
        return unfinished or (entry.owner == self._me and entry.state is not EngineState.STOPPED)

    def _end(self, entries: Sequence[EngineEntry]) -> None:
        stopping = []
        for entry in entries:
            with self._registry.changing() as engines:
                current = engines.get(entry.name)
                if current is None or current.start_id != entry.start_id:
                    continue  # it has made way for another start meanwhile
                current = current.to(EngineState.STOPPING, worker=self._me, stage=None, error=None)
                engines[entry.name] = current
                stopping.append(current)
        targets = [Target(entry.process, entry.start_id) for entry in stopping]
        supervisor.end(targets, grace_s=self._around.grace_s)
        for entry in stopping:
            with self._registry.changing() as engines:
                current = engines.get(entry.name)
                if current is not None and current.start_id == entry.start_id:
                    engines[entry.name] = current.to(EngineState.STOPPED).without_process()
            log.info("engine stopped lane=%s", entry.name)

    def _thread(self, name: str, work: Callable[[], None]) -> None:
        # Daemons: the interpreter must be able to end while an engine loads.
        threading.Thread(target=work, name=name, daemon=True).start()


def _is_up(entry: EngineEntry) -> bool:
    return observed(entry).state in (EngineState.STARTING, EngineState.HEALTHY)


def _serves(entry: EngineEntry, lane: LaneSpec) -> bool:
    """Whether the engine runs, or will soon, in the form that the lane wants."""
    return same_engine(entry.lane, lane) and _is_up(entry)


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
