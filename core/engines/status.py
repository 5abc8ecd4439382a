"""The status of engines: for display, and as telemetry needs it.

Any LMDyno process can watch the engines of a home: their processes, what happened to them, what their logs
say. It reads engines.json, the leases and the logs, and changes nothing.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from core.domain.specs import LaneSpec
from core.domain.turns import ErrorInfo, utc_now
from core.engines.registry import (
    EngineEntry,
    EngineState,
    Registry,
    Replica,
    in_use,
    replica_logs,
    replicas_of,
)
from core.engines.resolve import error_of, node_trouble, observed, read_snapshot, same_engine
from core.engines.supervisor import STARTING, last_stage, lines_of, read_start, read_tail
from core.errors import EngineError, EngineTimeout
from core.i18n import N_, Text
from core.memory.prediction import KvLog, kv_is_reserved, read_kv_log, weights_are_loaded
from core.settings import Settings
from core.telemetry.processes import ProcessId
from core.telemetry.samples import EngineProcess, EngineView, Event, EventLog
from core.units import duration

_TAIL_BYTES = 8192
_PROGRESS_S = 0.25
_FINISHING_S = 1.5
"""Most engines are idle by then; only what takes longer is worth telling."""
_SILENT_S = 25.0
"""From here on a healthy engine is said not to answer."""

_SOON = ("cluster-connecting", "cluster-not-connected", "node-joining")
"""What passes by itself and is no failure of the lane."""

_ALIVE_NS = 400_000_000
"""How long a process is taken to be there after it was seen; asking the system costs most of a look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """One engine at one moment."""

    name: str
    lane: LaneSpec
    state: EngineState
    since: datetime
    elapsed_s: float
    """Seconds in this state."""
    pid: int | None
    port: int | None
    url: str | None
    version: str | None
    device: str | None
    stage: Text | None
    """What it is doing, in words: a step of its start-up, or that it does not answer."""
    last_log_line: str
    """Of this start; "" while it has no log yet."""
    error: ErrorInfo | None
    in_use: bool
    finishing_s: float | None
    """For how long a healthy engine has been computing for a stopped request that nobody waits for; None if
    it doesn't."""
    owned: bool
    """Whether this process ends it when it ends itself."""
    replicas: tuple[Replica, ...] = ()
    """The servers behind its address; none for an engine that is one server."""
    node: str | None = None
    """The node of the Ray cluster that it is or belongs on, and that `pid` and `device` are of; None for this
    machine."""


def without_engine(lane: LaneSpec, since: datetime) -> EngineStatus:
    """A lane whose engine was never started, or an endpoint, which needs none."""
    remote = lane.endpoint
    return EngineStatus(
        name=lane.name,
        lane=lane,
        state=EngineState.HEALTHY if remote else EngineState.STOPPED,
        since=since,
        elapsed_s=_since_s(since),
        pid=None,
        port=None,
        url=remote.url if remote else None,
        version=None,
        device=None,
        stage=None,
        last_log_line="",
        error=None,
        in_use=False,
        finishing_s=None,
        owned=False,
    )


def of_engine(
    entry: EngineEntry,
    lane: LaneSpec,
    *,
    silent_s: float,
    in_use: bool,
    stopped_s: float | None,
    owned: bool,
) -> EngineStatus:
    """An engine by its entry and its log.

    `silent_s` is how long it has not answered a health check, `stopped_s` how long ago a request was stopped
    that it may still be computing.
    """
    now = observed(entry)
    is_quiet = now.state is EngineState.HEALTHY and not in_use
    finishing_s = stopped_s if is_quiet and stopped_s is not None and stopped_s > _FINISHING_S else None
    # Until a start has its process, the file holds the log of the start before.
    waits = now.state is EngineState.STARTING and entry.process is None
    # The log of a lane with replicas says little before they are ready; the first one's speaks for all.
    starting = replica_logs(entry)[:1] if now.state is EngineState.STARTING else ()
    log_text = "" if waits else read_tail((*starting, Path(entry.log_file))[0], _TAIL_BYTES)
    lines = lines_of(log_text)
    endpoint = now.endpoint if now.state is EngineState.HEALTHY else None
    replicas = replicas_of(now)
    return EngineStatus(
        name=entry.name,
        lane=lane,
        state=now.state,
        since=now.since,
        elapsed_s=_since_s(now.since),
        pid=entry.process.pid if entry.process and entry.process.alive else None,
        port=now.port,
        url=endpoint.url if endpoint else None,
        version=endpoint.version if endpoint else None,
        device=endpoint.device if endpoint else None,
        stage=_stage(now, lane, log_text, silent_s, finishing_s, replicas),
        last_log_line=lines[-1] if lines else "",
        error=now.error,
        in_use=in_use and now.state is EngineState.HEALTHY,
        finishing_s=finishing_s,
        owned=owned,
        replicas=replicas,
    )


def node_status(
    settings: Settings, lane: LaneSpec, name: str | None, since: datetime, me: ProcessId
) -> EngineStatus:
    """The engine of a lane on the named node. Cheap.

    Args:
        settings: the home.
        lane: as it is configured now.
        name: None for a lane that has no node yet.
        since: for a lane whose engine was never started.
        me: this process, which may own the engine.
    """
    none = replace(without_engine(lane, since), node=name)
    if name is None:
        return none
    snapshot = read_snapshot(settings)
    if (problem := node_trouble(snapshot, name)) is not None:
        if problem.code in _SOON:
            return replace(none, stage=problem.message)
        return replace(none, state=EngineState.FAILED, error=problem)
    node = snapshot.node(name) if snapshot else None
    engine = node.engine(lane.name) if node else None
    if snapshot is None or node is None or engine is None:
        return none
    is_healthy = engine.state is EngineState.HEALTHY
    endpoint = engine.endpoint if is_healthy else None
    stage = engine.stage
    if is_healthy and stage is None and not same_engine(engine.lane, lane):
        stage = N_("Runs with its previous settings until you restart it")
    entered = node.since(engine)
    placement = snapshot.placement(lane.name)
    return EngineStatus(
        name=lane.name,
        lane=lane,
        state=engine.state,
        since=entered,
        elapsed_s=max(0.0, (utc_now() - entered).total_seconds()),
        pid=engine.pid,
        port=engine.port,
        url=endpoint.url if endpoint else None,
        version=endpoint.version if endpoint else None,
        device=endpoint.device if endpoint else None,
        stage=stage,
        last_log_line=engine.last_log_line,
        error=engine.error,
        in_use=is_healthy and in_use(settings, lane.name),
        finishing_s=None,
        owned=placement is not None and placement.owner == me,
        replicas=engine.replicas,
        node=name,
    )


def wait_until_healthy(
    status: Callable[[], EngineStatus],
    timeout_s: float,
    on_progress: Callable[[EngineStatus], None] | None = None,
) -> EngineStatus:
    """Wait for an engine that is starting; `on_progress` is called a few times a second meanwhile.

    Raises EngineError: it failed, was stopped, or is not ready after `timeout_s`, and goes on starting.
    """
    deadline = time.monotonic() + timeout_s
    while (now := status()).state is EngineState.STARTING:
        if on_progress is not None:
            on_progress(now)
        if time.monotonic() >= deadline:
            raise EngineTimeout(
                N_(
                    "{lane} isn't ready after {time}: {stage}",
                    lane=now.name,
                    time=duration(timeout_s),
                    stage=now.stage or STARTING,
                ),
                hint=N_("It keeps starting. Check again later."),
                code="engine-not-ready",
            )
        time.sleep(_PROGRESS_S)
    if now.state is EngineState.HEALTHY:
        return now
    if now.error is not None:
        raise error_of(now.error)
    raise EngineError(
        N_("The engine of {lane} isn't running.", lane=now.name),
        hint=N_("Start it again."),
        code="engine-not-running",
    )


def _since_s(since: datetime) -> float:
    return max(0.0, (utc_now() - since).total_seconds())


def _stage(
    entry: EngineEntry,
    lane: LaneSpec,
    log_text: str,
    silent_s: float,
    finishing_s: float | None,
    replicas: tuple[Replica, ...],
) -> Text | None:
    if entry.state is EngineState.STARTING:
        return entry.stage or last_stage(log_text) or STARTING
    if entry.state is EngineState.STOPPING:
        return N_("Stopping")
    if entry.state is not EngineState.HEALTHY:
        return None
    if finishing_s is not None:
        return N_("Finishing a stopped request for {time}", time=duration(finishing_s))
    if ended := sum(replica.state is EngineState.FAILED for replica in replicas):
        return N_(
            "{ended} of {all} replicas ended. The others go on. Restart the engine to have all of them.",
            ended=ended,
            all=len(replicas),
        )
    if silent_s > _SILENT_S:
        return N_("Not responding for {time}", time=duration(silent_s))
    if not same_engine(entry.lane, lane):
        return N_("Runs with its previous settings until you restart it")
    return None


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
