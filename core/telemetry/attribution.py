"""The attribution of a GPU's memory to engines.

The driver's process list is asked first. Inside a container it may name processes by the host's numbers, or
none at all, and on Windows' WDDM it names no sizes; then an engine's share is what the used memory grew by
since before it was started. Not thread-safe: the sampler's thread owns it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.i18n import N_
from core.telemetry.gpus import GpuReading
from core.telemetry.samples import EngineGpuMemory, EngineProcess, MemorySource

NOT_SEEN_BEFORE = N_(
    "The engine was loaded before measuring started, and the driver doesn't report memory per process."
)
NO_TOTAL = N_("Can't read the GPU's used memory.")


@dataclass(slots=True)
class _Load:
    """An engine without process figures: the rest of the GPU's memory just before it was started."""

    engine: EngineProcess
    before_bytes: int | None
    grown_bytes: int | None = None


class Attribution:
    """Shares of each GPU by engine, sample after sample, in the order of loading."""

    def __init__(self) -> None:
        self._loads: dict[int, list[_Load]] = {}
        self._rest_bytes: dict[int, int | None] = {}
        self._lists_processes = False

    def attribute(
        self, gpus: Sequence[GpuReading], trees: Mapping[EngineProcess, frozenset[int]]
    ) -> dict[str, tuple[EngineGpuMemory, ...]]:
        """Each engine's memory by its name; `trees` holds the process ids of each engine."""
        shares: dict[str, tuple[EngineGpuMemory, ...]] = {engine.name: () for engine in trees}
        for reading in gpus:
            listed = _listed_bytes(reading, trees)
            self._lists_processes |= bool(listed)
            for name, used in listed.items():
                share = EngineGpuMemory(gpu=reading.index, used_bytes=used, source=MemorySource.PROCESSES)
                shares[name] += (share,)
            for share, name in self._by_difference(reading, trees, listed):
                shares[name] += (share,)
        return shares

    def _by_difference(
        self,
        reading: GpuReading,
        trees: Mapping[EngineProcess, frozenset[int]],
        listed: Mapping[str, int],
    ) -> list[tuple[EngineGpuMemory, str]]:
        rest = None if reading.used_bytes is None else reading.used_bytes - sum(listed.values())
        # Once the driver has named a process of ours, an engine it does not name holds no memory.
        unlisted = [
            engine
            for engine in trees
            if not self._lists_processes
            and engine.name not in listed
            and (engine.gpus is None or reading.index in engine.gpus)
        ]
        loads = self._update(reading.index, unlisted, rest)
        self._rest_bytes[reading.index] = rest
        return [(_share(reading.index, load, rest), load.engine.name) for load in loads]

    def _update(self, gpu: int, engines: Sequence[EngineProcess], rest: int | None) -> list[_Load]:
        """Forget engines that ended, note new ones, and measure all of them again."""
        loads = self._loads.get(gpu, [])
        present = {(engine.name, engine.pid) for engine in engines}
        kept: list[_Load] = []
        freed = 0
        for load in loads:
            if (load.engine.name, load.engine.pid) not in present:
                freed += load.grown_bytes or 0
            else:
                if load.before_bytes is not None:
                    load.before_bytes -= freed
                kept.append(load)
        known = {(load.engine.name, load.engine.pid) for load in kept}
        before = self._rest_bytes.get(gpu)
        kept += [
            _Load(engine, None if before is None else before - freed)
            for engine in engines
            if (engine.name, engine.pid) not in known
        ]
        ends = [*(load.before_bytes for load in kept[1:]), rest]
        for load, end in zip(kept, ends, strict=False):
            if load.before_bytes is not None and end is not None:
                load.grown_bytes = max(0, end - load.before_bytes)
        self._loads[gpu] = kept
        return kept


def _listed_bytes(reading: GpuReading, trees: Mapping[EngineProcess, frozenset[int]]) -> dict[str, int]:
    """Memory of each engine that the driver names with a size."""
    processes = [process for process in reading.processes or () if process.used_bytes is not None]
    return {
        engine.name: sum(process.used_bytes or 0 for process in processes if process.pid in pids)
        for engine, pids in trees.items()
        if any(process.pid in pids for process in processes)
    }


def _share(gpu: int, load: _Load, rest: int | None) -> EngineGpuMemory:
    if rest is None:
        return EngineGpuMemory(gpu=gpu, used_bytes=None, reason=NO_TOTAL)
    if load.before_bytes is None:
        return EngineGpuMemory(gpu=gpu, used_bytes=None, reason=NOT_SEEN_BEFORE)
    return EngineGpuMemory(gpu=gpu, used_bytes=load.grown_bytes, source=MemorySource.DIFFERENCE)
