"""Samples of the machine at one moment, and the events of engines between two.

Timestamps are `time.perf_counter_ns()`. On Linux and macOS this clock is the same in every process of the
machine, so a request's timestamps from the meter and the samples here can be laid over each other.
"""

import threading
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from core.domain.turns import ErrorInfo
from core.telemetry.gpus import GpuReading

_MOST_EVENTS = 5_000


class MemorySource(StrEnum):
    """The method by which an engine's share of a GPU's memory was found."""

    PROCESSES = "processes"
    """The driver's figures for each process of the engine's process tree, added up."""
    DIFFERENCE = "difference"
    """What the GPU's used memory grew by since before the engine was started; no process is identified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProcess:
    """A running engine as the sampler is told of it."""

    name: str
    pid: int
    gpus: tuple[int, ...] | None = None
    """Indices of the GPUs that it was placed on; () for an engine on the CPU, None if not known."""
    busy: bool = False
    """It loads, or a request runs on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineGpuMemory:
    """An engine's memory on one GPU; `used_bytes` is None with a `reason`, or comes from `source`."""

    gpu: int
    used_bytes: int | None
    source: MemorySource | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReading:
    """One engine's process tree at one moment."""

    name: str
    pid: int
    busy: bool = False
    gpu_memory: tuple[EngineGpuMemory, ...] = ()
    resident_bytes: int | None = None
    """Host memory; pages that the engine's processes share are counted once for each."""
    cpu_ratio: float | None = None
    """CPU time by wall time: 1.0 is one whole core."""

    def gpu_bytes(self, gpu: int) -> int | None:
        """Memory on one GPU; None if it uses none there, or can't be told."""
        return next((share.used_bytes for share in self.gpu_memory if share.gpu == gpu), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Every GPU and every engine at one moment."""

    at_ns: int
    gpus: tuple[GpuReading, ...] = ()
    engines: tuple[EngineReading, ...] = ()
    problem: ErrorInfo | None = None
    """Why GPU figures are missing, if the driver or a GPU as a whole is the cause."""

    @property
    def busy(self) -> bool:
        return any(engine.busy for engine in self.engines)

    def gpu(self, index: int) -> GpuReading | None:
        return next((reading for reading in self.gpus if reading.index == index), None)


class EventKind(StrEnum):
    START = "start"
    """Its process was spawned."""
    WEIGHTS = "weights loaded"
    KV = "KV reserved"
    READY = "ready"
    REQUEST = "request"
    REQUEST_END = "request ended"
    STOP = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Event:
    at_ns: int
    engine: str
    kind: EventKind


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineView:
    """One engine at one look."""

    name: str
    start_id: str
    """Names this one start."""
    running: bool = False
    """Its process is there."""
    ready: bool = False
    failed: bool = False
    in_use: bool = False
    weights_loaded: bool = False
    kv_reserved: bool = False


class EventLog:
    """Compares each look with the one before. Thread-safe.

    Events are noticed by looking often, so a timestamp is late by up to the interval between two looks. What
    happened before the first look is not known and not made up.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: deque[Event] = deque(maxlen=_MOST_EVENTS)
        self._seen: dict[str, EngineView] | None = None

    def observe(self, now_ns: int, views: Collection[EngineView]) -> None:
        """Note what changed since the last look; the first one notes nothing."""
        with self._lock:
            before = self._seen
            self._seen = {view.name: view for view in views}
            if before is None:
                return
            for view in views:
                self._note(now_ns, before.get(view.name), view)
            for gone in before.keys() - self._seen.keys():
                if before[gone].running:
                    self._events.append(Event(now_ns, gone, EventKind.STOP))

    def events(self, since_ns: int | None = None) -> tuple[Event, ...]:
        """Oldest first; with `since_ns` only what came later."""
        with self._lock:
            return tuple(event for event in self._events if since_ns is None or event.at_ns > since_ns)

    def _note(self, now_ns: int, before: EngineView | None, view: EngineView) -> None:
        kinds: list[EventKind] = []
        if before is None or before.start_id != view.start_id:
            if before is not None and before.running:
                kinds.append(EventKind.STOP)
            before = EngineView(name=view.name, start_id=view.start_id)
        if view.running:
            reached = _steps(before)
            kinds += [kind for kind in _steps(view) if kind not in reached]
        if view.in_use != before.in_use:
            kinds.append(EventKind.REQUEST if view.in_use else EventKind.REQUEST_END)
        if view.failed and not before.failed:
            kinds.append(EventKind.FAILED)
        elif before.running and not view.running:
            kinds.append(EventKind.STOP)
        self._events.extend(Event(now_ns, view.name, kind) for kind in kinds)


def _steps(view: EngineView) -> list[EventKind]:
    """Return how far its start-up is, in order."""
    steps = {
        EventKind.START: view.running,
        EventKind.WEIGHTS: view.weights_loaded,
        EventKind.KV: view.kv_reserved,
        EventKind.READY: view.ready,
    }
    return [kind for kind, reached in steps.items() if reached]
