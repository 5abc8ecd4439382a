"""What happened to engines, on the clock of the samples: the marks of the live chart.

Events are noticed by looking often, so a timestamp is late by up to the interval between two looks. What
happened before the first look is not known and not made up.
"""

import threading
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

_KEPT = 5_000


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
    """Compares each look with the one before. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: deque[Event] = deque(maxlen=_KEPT)
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
    """How far its start-up is, in order."""
    steps = {
        EventKind.START: view.running,
        EventKind.WEIGHTS: view.weights_loaded,
        EventKind.KV: view.kv_reserved,
        EventKind.READY: view.ready,
    }
    return [kind for kind, reached in steps.items() if reached]
