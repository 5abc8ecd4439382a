"""What the machine did during a pass: the sampler's window as facts of the pass."""

import asyncio
from collections.abc import Collection

from core.domain.bench import EngineUse, GpuUse
from core.engines.registry import EngineEntry, EngineState, Registry
from core.settings import Settings
from core.telemetry.nvml import Nvml
from core.telemetry.sampler import Sampler
from core.telemetry.samples import EngineProcess
from core.telemetry.window import WindowStats


class PassTelemetry:
    """Samples GPUs and the engines of some lanes once a second; start and end of a pass are sampled too.

    More samples would cost the measuring process more than they tell of passes that last seconds; the energy
    comes from counters and does not need them.
    """

    def __init__(self, settings: Settings, lanes: Collection[str]) -> None:
        self._registry = Registry(settings)
        self._lanes = frozenset(lanes)
        self._sampler = Sampler(Nvml(), self._processes)

    def start(self) -> None:
        self._sampler.start()

    def close(self) -> None:
        self._sampler.close()

    async def mark(self) -> None:
        """Take a sample now."""
        await asyncio.to_thread(self._sampler.sample)

    async def use(
        self, lanes: Collection[str], start_ns: int, end_ns: int
    ) -> tuple[tuple[GpuUse, ...], tuple[EngineUse, ...]]:
        """The GPUs that the engines of these lanes are on, and all engines, between two timestamps."""
        stats = await asyncio.to_thread(self._sampler.window, start_ns, end_ns)
        used = {index for entry in self._entries() if entry.name in lanes for index in entry.gpus}
        return _gpu_use(stats, used), _engine_use(stats)

    def _entries(self) -> list[EngineEntry]:
        return [entry for entry in self._registry.read().values() if entry.name in self._lanes]

    def _processes(self) -> tuple[EngineProcess, ...]:
        return tuple(process for entry in self._entries() if (process := _process(entry)) is not None)


class NoTelemetry:
    """Telemetry of runs whose engines are all remote."""

    async def mark(self) -> None:
        """Do nothing: there is nothing to sample."""

    async def use(
        self, _lanes: Collection[str], _start_ns: int, _end_ns: int
    ) -> tuple[tuple[GpuUse, ...], tuple[EngineUse, ...]]:
        return (), ()


def _process(entry: EngineEntry) -> EngineProcess | None:
    if entry.process is None or entry.state is not EngineState.HEALTHY:
        return None
    # Never busy: that would make the sampler ten times as eager.
    return EngineProcess(name=entry.name, pid=entry.process.pid, gpus=entry.gpus)


def _gpu_use(stats: WindowStats, indices: Collection[int]) -> tuple[GpuUse, ...]:
    return tuple(
        GpuUse(
            index=gpu.index,
            name=gpu.name,
            peak_used_bytes=gpu.peak_used_bytes,
            energy_j=gpu.energy_j,
            energy_gap=gpu.energy_gap,
            mean_power_w=gpu.mean_power_w,
            idle_power_w=gpu.idle_power_w,
            mean_utilisation_ratio=gpu.mean_utilisation_ratio,
        )
        for gpu in stats.gpus
        if gpu.index in indices
    )


def _engine_use(stats: WindowStats) -> tuple[EngineUse, ...]:
    return tuple(
        EngineUse(
            lane=engine.name,
            peak_gpu_bytes=engine.peak_gpu_bytes,
            peak_resident_bytes=engine.peak_resident_bytes,
            mean_cpu_ratio=engine.mean_cpu_ratio,
        )
        for engine in stats.engines
    )
