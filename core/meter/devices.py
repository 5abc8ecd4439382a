"""The queue for each device of this machine: one turn measures at a time, first come, first served.

Within a process turns queue in order; between processes (the command line beside the dashboard) a kernel lock
for each device decides, so a process that dies leaves nothing behind.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from core.files import lock_path, try_lock, unlock

_POLL_S = 0.05


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
            await asyncio.sleep(_POLL_S)

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
