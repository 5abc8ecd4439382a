"""The devices of this machine as engines share them: one load at a time on each, and only what fits.

What is free on a GPU is known only between two loads. So a device is locked, between all LMDyno processes of
one home, from the look at its memory until the engine is healthy. Engines that start together reach their
device in the order in which they were asked for.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from core.domain.specs import LaneSpec
from core.engines.launch.placement import CPU, LOOPBACK, GpuView, Need, Place, choose, visible, wants_gpu
from core.engines.registry import Registry
from core.files import lock_path, try_lock, unlock
from core.i18n import N_, Text
from core.settings import Settings
from core.telemetry.gpus import GpuFacts

_POLL_S = 0.2
_ORDER_POLL_S = 0.05


def load_lock(locks_dir: Path, name: str) -> Path:
    """The lock to hold while loading an engine; `name` is one of its place's `lock_names`."""
    return lock_path(locks_dir, f"load-{name}")


class Devices:
    """Places for engines. Thread-safe if its GpuView is."""

    def __init__(
        self, settings: Settings, registry: Registry, gpu: GpuView | None, *, host: str = LOOPBACK
    ) -> None:
        """`host` is where engines listen."""
        self._locks_dir = settings.locks_dir
        self._registry = registry
        self._gpu = gpu
        self._host = host

    @contextmanager
    def reserved(
        self, lane: LaneSpec, need: Need, *, needs_gpu: bool, while_waiting: Callable[[Text], None]
    ) -> Iterator[Place]:
        """The lane's devices, locked against other loads until the block ends.

        Waits for as long as other engines load there; `while_waiting` is called several times a second with
        words for people, and may raise to give up.

        Raises:
            EngineOutOfMemory: it does not fit beside what runs there.
            EngineLoadFailed: it needs GPUs that aren't there.
        """
        while True:
            place, busy = self._choose(lane, need, needs_gpu=needs_gpu)
            if place and (held := self._lock(place)) is not None:
                try:
                    if self._still_fits(place, need):
                        yield replace(place, host=self._host)
                        return
                finally:
                    for descriptor in held:
                        unlock(descriptor)
            where = place.label if place else ", ".join(f"cuda:{index}" for index in busy)
            while_waiting(N_("Waiting for {device}: another engine is loading", device=where))
            time.sleep(_POLL_S)

    def free_bytes(self, place: Place) -> int | None:
        """Free memory right now on the first GPU of the place; None on a CPU or where unknown."""
        if not place.gpus:
            return None
        return {gpu.index: gpu.free_bytes for gpu in self._gpus()}.get(place.gpus[0].index)

    def _gpus(self) -> tuple[GpuFacts, ...]:
        return visible(self._gpu.devices(), os.environ) if self._gpu is not None else ()

    def _choose(self, lane: LaneSpec, need: Need, *, needs_gpu: bool) -> tuple[Place | None, list[int]]:
        gpus = self._gpus()
        if not wants_gpu(lane, needs_gpu=needs_gpu, gpus=gpus):
            return CPU, []
        loading = [gpu.index for gpu in gpus if self._is_loading(gpu)]
        held = {
            entry.name: (entry.gpus, entry.gpu_bytes)
            for entry in self._registry.read().values()
            if entry.gpus and entry.alive
        }
        return choose(lane, need, gpus, loading=loading, held=held), loading

    def _still_fits(self, place: Place, need: Need) -> bool:
        """A second look, now that the place is locked: a load may have ended since the first."""
        free = {gpu.index: gpu.free_bytes for gpu in self._gpus()} if place.gpus else {}
        sizes = (free.get(gpu.index) for gpu in place.gpus)
        return all(size is None or need.fits(size) for size in sizes)

    def _is_loading(self, gpu: GpuFacts) -> bool:
        held = self._lock(Place((gpu,)))
        for descriptor in held or ():
            unlock(descriptor)
        return held is None

    def _lock(self, place: Place) -> list[int] | None:
        """All locks of the place, or none of them."""
        held: list[int] = []
        for name in place.lock_names:
            descriptor = try_lock(load_lock(self._locks_dir, name))
            if descriptor is None:
                for other in held:
                    unlock(other)
                return None
            held.append(descriptor)
        return held


class StartOrder:
    """A queue of starts, so that the baseline lane is the first to load. Thread-safe.

    A start that waits for something else, such as its weights, stands aside and holds up nobody.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        self._queue: set[int] = set()

    def join(self) -> int:
        """A place behind all others."""
        with self._lock:
            self._last += 1
            self._queue.add(self._last)
            return self._last

    def stand_aside(self, place: int) -> None:
        """Let others pass, for a while or for good."""
        with self._lock:
            self._queue.discard(place)

    def return_to(self, place: int) -> None:
        with self._lock:
            self._queue.add(place)

    def wait(self, place: int, require_wanted: Callable[[], None]) -> None:
        """Wait for the starts ahead of `place`; `require_wanted`, called meanwhile, may raise to give up."""
        while self._is_behind(place):
            require_wanted()
            time.sleep(_ORDER_POLL_S)

    def _is_behind(self, place: int) -> bool:
        with self._lock:
            return any(other < place for other in self._queue)
