"""Where an engine runs, whether it fits there, and the turns that engines take at a device.

What is free on a GPU is known only between two loads. So a device is locked, between all LMDyno processes of
one home, from the look at its memory until the engine is healthy. Engines that start together reach their
device in the order in which they were asked for. The choice of a place is made by pure functions of facts.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from core.domain.specs import LaneSpec
from core.engines.registry import Registry
from core.errors import EngineLoadFailed, EngineOutOfMemory
from core.files import lock_path, try_lock, unlock
from core.i18n import N_, Message, Text
from core.settings import Settings
from core.telemetry.samples import GpuFacts
from core.units import gib

LOOPBACK = "127.0.0.1"
_USELESS_RATIO = 0.05
"""A KV cache share below this serves nobody; then something else has to go."""

_POLL_S = 0.2
_ORDER_POLL_S = 0.05


class GpuView(Protocol):
    """The manager's view of GPUs; `core.telemetry.nvml.Nvml` is one."""

    def devices(self) -> Sequence[GpuFacts]:
        """All GPUs with their free memory right now; empty without any."""


@dataclass(frozen=True, slots=True)
class Place:
    """The CPU (no GPUs) or the GPUs that an engine gets, and where it listens."""

    gpus: tuple[GpuFacts, ...] = ()
    host: str = LOOPBACK
    """The address that the engine listens on."""

    @property
    def label(self) -> str:
        """`cpu`, `cuda:0` or `cuda:0,1`, by the driver's numbering."""
        return f"cuda:{','.join(str(gpu.index) for gpu in self.gpus)}" if self.gpus else "cpu"

    @property
    def visible_devices(self) -> str:
        """`CUDA_VISIBLE_DEVICES`; empty hides all GPUs from an engine on the CPU."""
        return ",".join(gpu.uuid if gpu.is_mig and gpu.uuid else str(gpu.index) for gpu in self.gpus)

    def shares(self, count: int) -> tuple["Place", ...]:
        """The same GPUs dealt out to so many replicas, an equal number to each."""
        size = len(self.gpus) // count
        return tuple(Place(self.gpus[size * number : size * (number + 1)]) for number in range(count))

    @property
    def torch_device(self) -> str:
        """The device as the engine sees it, which counts from 0; `auto` spreads over several GPUs."""
        if not self.gpus:
            return "cpu"
        return "cuda:0" if len(self.gpus) == 1 else "auto"

    @property
    def lock_names(self) -> tuple[str, ...]:
        """One lock for each device, always in the same order."""
        return tuple(f"device-cuda-{index}" for index in sorted(gpu.index for gpu in self.gpus)) or (
            "device-cpu",
        )


CPU = Place()


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """The memory that an engine takes on each GPU that it spans."""

    weight_bytes: int | None
    """Its share of the weights in memory; None where unknown, and then nothing is refused for their size."""
    overhead_bytes: int
    kv_ratio: float | None
    """Share of the memory left after the weights that the KV cache takes; None if it grows as needed."""

    def fits(self, free_bytes: int) -> bool:
        left = free_bytes - (self.weight_bytes or 0)
        return left - left * (self.kv_ratio or 0) >= self.overhead_bytes

    def total_bytes(self, free_bytes: int) -> int:
        """All that it would take of a GPU with that much free."""
        weight_bytes = self.weight_bytes or 0
        left = max(0, free_bytes - weight_bytes)
        return weight_bytes + int(left * (self.kv_ratio or 0)) + self.overhead_bytes

    def largest_ratio(self, free_bytes: int) -> float | None:
        """The largest KV ratio that would fit, rounded down; None if none that is of use would."""
        left = free_bytes - (self.weight_bytes or 0)
        if self.kv_ratio is None or left <= 0:
            return None
        ratio = int((1 - self.overhead_bytes / left) * 100) / 100
        return ratio if ratio >= _USELESS_RATIO else None


def wants_gpu(lane: LaneSpec, *, needs_gpu: bool, gpus: Sequence[GpuFacts]) -> bool:
    """Whether the lane's engine goes on a GPU; raises EngineLoadFailed if it must and there is none."""
    asked = lane.settings.device == "cuda" or lane.settings.devices is not None
    if gpus:
        return needs_gpu or lane.settings.device != "cpu"
    if needs_gpu or asked:
        raise EngineLoadFailed(
            N_("{lane} needs an NVIDIA GPU, but this machine has none.", lane=lane.name),
            hint=N_(
                "Use a transformers lane on the CPU, or an endpoint on a machine with a GPU. If this machine "
                "has a GPU, run `lmdyno doctor` to check its driver."
            ),
            code="no-gpu",
        )
    return False


def visible(gpus: Sequence[GpuFacts], environment: Mapping[str, str]) -> tuple[GpuFacts, ...]:
    """The GPUs that `CUDA_VISIBLE_DEVICES` leaves to this process, as a batch system sets it."""
    allowed = environment.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return tuple(gpus)
    names = {name.strip() for name in allowed.split(",")}
    return tuple(
        gpu
        for gpu in gpus
        if str(gpu.index) in names
        or (gpu.uuid is not None and any(name and gpu.uuid.startswith(name) for name in names))
    )


def choose(
    lane: LaneSpec,
    need: Need,
    gpus: Sequence[GpuFacts],
    *,
    loading: Iterable[int] = (),
    held: Mapping[str, tuple[Sequence[int], int | None]],
) -> Place | None:
    """The GPUs for an engine: those it is pinned to, else those with the most free memory.

    Args:
        lane: tells the pinned devices and how many it spans.
        need: on each of them.
        gpus: as they are now.
        loading: indices of GPUs on which another engine is just loading; their free memory is not yet true.
        held: engines that run on GPUs, by name: the indices, and the memory each took there.

    Returns:
        None when a GPU that is loading has to be waited for.

    Raises:
        EngineOutOfMemory: nothing fits; the hint names what would have to stop or shrink.
        EngineLoadFailed: it is pinned to GPUs that aren't there.
    """
    busy = set(loading)
    candidates = _candidates(lane, gpus)
    count = lane.settings.gpu_count
    ready = [gpu for gpu in candidates if gpu.index not in busy]
    fitting = sorted(
        (gpu for gpu in ready if gpu.free_bytes is None or need.fits(gpu.free_bytes)),
        key=lambda gpu: -(gpu.free_bytes or 0),
    )
    if len(fitting) >= count:
        return Place(tuple(sorted(fitting[:count], key=lambda gpu: gpu.index)))
    if any(gpu.index in busy for gpu in candidates):
        return None
    if len(candidates) < count:
        raise EngineLoadFailed(
            N_(
                "{lane} needs {count} GPUs, but only {available} are available.",
                lane=lane.name,
                count=count,
                available=len(candidates),
            ),
            hint=N_("Lower tp or replicas, or correct devices in lanes.toml."),
            code="no-gpu",
        )
    raise _refusal(lane, need, candidates, held)


def _candidates(lane: LaneSpec, gpus: Sequence[GpuFacts]) -> list[GpuFacts]:
    pinned = lane.settings.devices
    if pinned is None:
        return list(gpus)
    there = {gpu.index: gpu for gpu in gpus}
    if missing := [index for index in pinned if index not in there]:
        raise EngineLoadFailed(
            N_(
                "{lane} is pinned to GPU {missing}, which doesn't exist.",
                lane=lane.name,
                missing=", ".join(map(str, missing)),
            ),
            hint=N_(
                "Correct devices in lanes.toml. GPUs on this machine: {indices}.",
                indices=", ".join(map(str, there)) or "–",
            ),
            code="no-gpu",
        )
    return [there[index] for index in pinned]


def _refusal(
    lane: LaneSpec,
    need: Need,
    gpus: Sequence[GpuFacts],
    held: Mapping[str, tuple[Sequence[int], int | None]],
) -> EngineOutOfMemory:
    best = max(gpus, key=lambda gpu: gpu.free_bytes or 0)
    free = best.free_bytes or 0
    sizes = {
        "lane": lane.name,
        "index": best.index,
        "free": gib(free),
        "weights": gib(need.weight_bytes),
        "overhead": gib(need.overhead_bytes),
    }
    if need.kv_ratio is not None:
        message = N_(
            "{lane} doesn't fit on GPU {index}, which has {free} free: weights {weights}, KV cache {kv} at "
            "ratio {ratio}, about {overhead} overhead.",
            kv=gib(int(max(0, free - (need.weight_bytes or 0)) * need.kv_ratio)),
            ratio=f"{need.kv_ratio:g}",
            **sizes,
        )
    else:
        message = N_(
            "{lane} doesn't fit on GPU {index}, which has {free} free: weights {weights}, about {overhead} "
            "overhead.",
            **sizes,
        )
    return EngineOutOfMemory(message, hint=_ways_out(lane, need, best, free, held), code="gpu-full")


def _ways_out(
    lane: LaneSpec,
    need: Need,
    gpu: GpuFacts,
    free: int,
    held: Mapping[str, tuple[Sequence[int], int | None]],
) -> Message:
    names = ", ".join(
        f"{name} ({gib(size)})" if size is not None else name
        for name, (indices, size) in held.items()
        if gpu.index in indices and name != lane.name
    )
    largest = need.largest_ratio(free)
    ratio = None if largest is None else f"{largest:g}"
    if ratio and names:
        return N_(
            "Set cache_max_entry_count to {ratio} or less, or stop an engine: {names}.",
            ratio=ratio,
            names=names,
        )
    if ratio:
        return N_("Set cache_max_entry_count to {ratio} or less.", ratio=ratio)
    if names:
        return N_("Stop an engine: {names}.", names=names)
    return N_("Stop other programs that use the GPU, or choose a smaller model.")


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
