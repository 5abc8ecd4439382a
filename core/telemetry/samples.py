"""One moment of the machine: what the sampler records, on the clock of the requests.

Timestamps are `time.perf_counter_ns()`. On Linux and macOS this clock is the same in every process of the
machine, so a request's timestamps from the meter and the samples here can be laid over each other.
"""

from dataclasses import dataclass
from enum import StrEnum

from core.domain.turns import ErrorInfo
from core.telemetry.gpus import GpuReading


class MemorySource(StrEnum):
    """How an engine's share of a GPU's memory was found."""

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
