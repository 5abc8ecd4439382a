"""What a measured request waits for: its device, and what still computes; and the machine's load meanwhile.

One turn measures on a device at a time, first come, first served. Within a process turns queue in order;
between processes (the command line beside the dashboard) a kernel lock for each device decides, so a process
that dies leaves nothing behind. Before a measured request is sent, nothing may still compute for one that was
stopped.

Reading sensors takes milliseconds, so a sampler does it in threads; the loop only waits for it before a
request is sent and after its answer has ended, never in between.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from core.cluster.link import NodeWindows
from core.domain.specs import Endpoint
from core.domain.turns import UsageWindow
from core.engines.requests import StoppedRequests, Unfinished
from core.engines.status import EngineWatch
from core.files import lock_path, try_lock, unlock
from core.i18n import N_, Text
from core.settings import Settings
from core.telemetry.nvml import Nvml
from core.telemetry.sampler import Sampler
from core.telemetry.series import WindowStats, usage_of

_LOCK_POLL_S = 0.05
_BUSY_POLL_S = 0.2


def measure_lock(locks_dir: Path, device: str) -> Path:
    """The lock between processes to hold while measuring on a device."""
    return lock_path(locks_dir, f"device-{device}.measure")


@dataclass(eq=False, slots=True)
class Ticket:
    """A place in the queue, and after its admission the right to measure on its devices."""

    devices: frozenset[str]
    on_place: Callable[[int], None]
    """Called with each new place while waiting; 1 is next."""
    admitted: asyncio.Event = field(default_factory=asyncio.Event)
    """No turn of this process is ahead any more; those of other processes may be."""
    place: int | None = None
    descriptors: list[int] = field(default_factory=list)


class DeviceQueue:
    """The queue of one process. Belongs to one event loop."""

    def __init__(self, locks_dir: Path) -> None:
        self._locks_dir = locks_dir
        self._tickets: list[Ticket] = []

    def join(self, devices: frozenset[str], on_place: Callable[[int], None]) -> Ticket:
        """Take a place; it must be released, whether or not `admission` was waited for."""
        ticket = Ticket(devices, on_place)
        self._tickets.append(ticket)
        self._admit()
        return ticket

    async def admission(self, ticket: Ticket) -> None:
        """Wait until all of the ticket's devices are free at once: two turns never wait for each other's."""
        await ticket.admitted.wait()
        while not self._try_lock(ticket):
            _tell(ticket, 1)
            await asyncio.sleep(_LOCK_POLL_S)

    def release(self, ticket: Ticket) -> None:
        """Give up the place and the devices; safe to call twice."""
        while ticket.descriptors:
            unlock(ticket.descriptors.pop())
        if ticket in self._tickets:
            self._tickets.remove(ticket)
            self._admit()

    def _admit(self) -> None:
        for index, ticket in enumerate(self._tickets):
            if ticket.admitted.is_set():
                continue
            ahead = [other for other in self._tickets[:index] if other.devices & ticket.devices]
            if not ahead:
                ticket.admitted.set()
                continue
            waiting = sum(not other.admitted.is_set() for other in ahead)
            _tell(ticket, waiting + 1)

    def _try_lock(self, ticket: Ticket) -> bool:
        for device in sorted(ticket.devices):
            descriptor = try_lock(measure_lock(self._locks_dir, device))
            if descriptor is None:
                while ticket.descriptors:
                    unlock(ticket.descriptors.pop())
                return False
            ticket.descriptors.append(descriptor)
        return True


def _tell(ticket: Ticket, place: int) -> None:
    if place != ticket.place:
        ticket.place = place
        ticket.on_place(place)


class UsageMeter(Protocol):
    """A turn's view of the machine."""

    async def begin(self, endpoint: Endpoint) -> None:
        """A request is about to be sent there."""

    async def end(self, lane: str, endpoint: Endpoint, start_ns: int, end_ns: int) -> UsageWindow | None:
        """The window between two perf_counter_ns timestamps; None for a server that LMDyno does
        not run."""


class SampledUsage:
    """A UsageMeter over this machine's sensors, and over those of nodes; samples from `start` to `close`."""

    def __init__(self, settings: Settings) -> None:
        self._sampler = Sampler(Nvml(), EngineWatch(settings))
        self._nodes = NodeWindows(settings)

    def start(self) -> None:
        self._sampler.start()

    def close(self) -> None:
        self._sampler.close()

    async def begin(self, endpoint: Endpoint) -> None:
        # Idle sampling is once a second: without this the energy at the start would be a guess.
        if endpoint.node is not None:
            await asyncio.to_thread(self._nodes.mark, endpoint.node)
        elif endpoint.device is not None:
            await asyncio.to_thread(self._sampler.sample)

    async def end(self, lane: str, endpoint: Endpoint, start_ns: int, end_ns: int) -> UsageWindow | None:
        if endpoint.device is None:
            return None
        stats: WindowStats | None
        if endpoint.node is not None:
            stats = await asyncio.to_thread(self._nodes.window, endpoint.node, start_ns, end_ns)
        else:
            stats = await asyncio.to_thread(self._sampler.window, start_ns, end_ns)
        return usage_of(stats, lane, _gpus_of(endpoint)) if stats else None


def _gpus_of(endpoint: Endpoint) -> tuple[int, ...]:
    return tuple(int(name.split(":")[1]) for name in sorted(endpoint.devices) if "cuda:" in name)


async def settled(
    stopped: StoppedRequests, endpoint: Endpoint, patience_s: float, on_wait: Callable[[Unfinished], None]
) -> tuple[Text, ...]:
    """Wait for what still computes, up to `patience_s`; returns what must be known about the next request.

    `on_wait` is called at each look while it waits, and must return at once.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + patience_s
    while (unfinished := await asyncio.to_thread(stopped.before, endpoint)).must_wait:
        if clock() >= deadline:
            if unfinished.server_is_busy:
                return (N_("The server was busy when this was sent, so the figures may include waiting."),)
            return (
                N_(
                    "{lanes} was still finishing a stopped request when this was sent, so the figures may "
                    "include waiting.",
                    lanes=", ".join(unfinished.lanes),
                ),
            )
        on_wait(unfinished)
        await asyncio.sleep(_BUSY_POLL_S)
    if unfinished.server_is_silent:
        return (
            N_(
                "A request to this server was stopped shortly before. The server doesn't say whether it "
                "still works on it, so the figures may include waiting."
            ),
        )
    return ()
