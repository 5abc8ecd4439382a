"""The words of telemetry: facts about GPUs and their faults, samples of the machine, and events between them.

A figure that can't be read is None, and a Gap beside it says why. NVML's return codes are told apart by
whether they concern one figure, or the driver or a GPU as a whole; functions about them are given pynvml as
`library`, since `core.telemetry.nvml` alone imports it.

Timestamps are `time.perf_counter_ns()`. On Linux and macOS this clock is the same in every process of the
machine, so a request's timestamps from the meter and the samples here can be laid over each other.
"""

import threading
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from types import ModuleType

from core.domain.turns import ErrorInfo
from core.i18n import N_, Text

_RELOAD_HINT = N_("Restart the machine, or reload the nvidia kernel modules.")
_CPU_HINT = N_("Lanes on the CPU and endpoints work without it.")

_MOST_EVENTS = 5_000


@dataclass(frozen=True, slots=True)
class Gap:
    """A figure that could not be read, and the reason in words."""

    figure: str
    reason: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """One GPU, or one MIG instance of it, with its memory right now."""

    index: int
    """Position in NVML's order, which is PCI bus order; MIG instances are counted like GPUs."""
    name: str
    total_bytes: int | None
    """None on systems whose GPU has no memory of its own."""
    free_bytes: int | None
    used_bytes: int | None = None
    """Memory in use by all processes, without what the driver keeps for itself."""
    uuid: str | None = None
    """Names this GPU or MIG instance in `CUDA_VISIBLE_DEVICES`, whatever CUDA's own order is."""
    board: int = 0
    """NVML index of the physical GPU; instances of one board share its power and energy."""
    is_mig: bool = False
    compute_capability: tuple[int, int] | None = None
    gaps: tuple[Gap, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMemory:
    """GPU memory of one process, by the process ids of the driver's host."""

    pid: int
    used_bytes: int | None
    """None where the driver lists the process without a figure (Windows' WDDM)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """All sensors of one GPU at one moment."""

    index: int
    name: str
    board: int = 0
    is_mig: bool = False
    total_bytes: int | None = None
    free_bytes: int | None = None
    used_bytes: int | None = None
    utilisation_ratio: float | None = None
    """Share of the last sampling interval in which a kernel ran; says nothing about how full the GPU was."""
    power_w: float | None = None
    energy_j: float | None = None
    """A counter of the whole board since the driver was loaded; only differences mean something."""
    temperature_c: float | None = None
    sm_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    throttle_reasons: tuple[str, ...] | None = None
    """Why the clocks are held down; empty when they are not."""
    pcie_rx_bytes_per_s: float | None = None
    pcie_tx_bytes_per_s: float | None = None
    processes: tuple[ProcessMemory, ...] | None = None
    """Compute processes; None when the driver does not list them."""
    gaps: tuple[Gap, ...] = ()

    def reason(self, figure: str) -> str | None:
        """Return why the named figure is missing; None if nothing went wrong with it."""
        return next((gap.reason for gap in self.gaps if gap.figure == figure), None)


MIG_WITHOUT_INSTANCES = ErrorInfo(
    "mig-without-instances",
    N_("A GPU is in MIG mode but has no instance that CUDA can use."),
    N_("Create an instance with `nvidia-smi mig -cgi … -C`, or turn MIG off."),
)


def code_of(library: ModuleType, error: Exception) -> int:
    """NVML's number for the error, its "unknown" for one without."""
    if isinstance(error, library.NVMLLibraryMismatchError):
        return int(library.NVML_ERROR_FUNCTION_NOT_FOUND)
    return int(error.value) if isinstance(error, library.NVMLError) else int(library.NVML_ERROR_UNKNOWN)


def reason_of(library: ModuleType, error: Exception) -> str:
    """Return why a figure is missing, for the gap in a chart."""
    if problem := problem_of(library, error):
        return problem.message
    reasons = {
        library.NVML_ERROR_NOT_SUPPORTED: N_("Not supported by this GPU or driver."),
        library.NVML_ERROR_FUNCTION_NOT_FOUND: N_("Not supported by this old driver."),
        library.NVML_ERROR_NO_PERMISSION: N_("Not permitted for this user."),
        library.NVML_ERROR_NO_DATA: N_("The driver has no value yet."),
        library.NVML_ERROR_NOT_READY: N_("The GPU is not ready."),
        library.NVML_ERROR_TIMEOUT: N_("The driver didn't respond in time."),
    }
    return reasons.get(code_of(library, error)) or N_("The driver reports: {reason}", reason=error)


def problem_of(library: ModuleType, error: Exception) -> ErrorInfo | None:
    """The state of the driver or a GPU that an error stands for; None if it concerns a single figure."""
    problems = {
        library.NVML_ERROR_LIBRARY_NOT_FOUND: ErrorInfo(
            "no-nvidia-driver",
            N_("No NVIDIA driver is installed."),
            N_(
                "Lanes on the CPU and endpoints work without it. For lanes on a GPU, install the NVIDIA "
                "driver."
            ),
        ),
        library.NVML_ERROR_DRIVER_NOT_LOADED: ErrorInfo(
            "driver-not-loaded",
            N_("The NVIDIA driver is installed but not loaded."),
            N_("Load the nvidia kernel module. Start containers with `--gpus all`."),
        ),
        library.NVML_ERROR_LIB_RM_VERSION_MISMATCH: ErrorInfo(
            "driver-mismatch",
            N_("The NVIDIA driver was updated, but its old kernel module is still loaded."),
            _RELOAD_HINT,
        ),
        library.NVML_ERROR_UNINITIALIZED: ErrorInfo(
            "driver-gone", N_("The connection to the NVIDIA driver was lost."), _RELOAD_HINT
        ),
        library.NVML_ERROR_GPU_IS_LOST: ErrorInfo(
            "gpu-lost",
            N_("A GPU has fallen off the bus."),
            N_(
                "Look for Xid messages in the kernel log (power or heat is the usual cause), and restart "
                "the machine."
            ),
        ),
        library.NVML_ERROR_RESET_REQUIRED: ErrorInfo(
            "gpu-reset-required", N_("A GPU needs a reset."), _RELOAD_HINT
        ),
        library.NVML_ERROR_UNKNOWN: ErrorInfo(
            "driver-failed", N_("The NVIDIA driver reports an unknown error."), _RELOAD_HINT
        ),
    }
    return problems.get(code_of(library, error))


def failure_of(library: ModuleType, error: Exception) -> ErrorInfo:
    """Return why the library could not be opened at all."""
    return problem_of(library, error) or ErrorInfo(
        "driver-failed", N_("Can't query the NVIDIA driver: {reason}", reason=error), _CPU_HINT
    )


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
