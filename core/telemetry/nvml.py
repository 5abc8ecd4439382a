"""NVIDIA's management library behind one funnel, and the machine that a turn ran on, for its record.

"Not available" is a value and never an exception. The sole importer of `pynvml`. It knows GPUs, MIG instances
and the driver's process list; it knows nothing of engines, lanes or time series. A driver that vanishes or a
GPU that is lost leaves gaps with a reason, and the library is opened again some seconds later.
"""

import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import psutil
import pynvml

from core.domain.turns import ErrorInfo, Machine
from core.i18n import N_
from core.telemetry.samples import (
    MIG_WITHOUT_INSTANCES,
    Gap,
    GpuFacts,
    GpuReading,
    ProcessMemory,
    failure_of,
    problem_of,
    reason_of,
)
from core.units import gib

T = TypeVar("T")

# NVML measures PCIe throughput over 20 ms and blocks meanwhile. So one device at a time is asked, after all
# other sensors were read, and the figure stays for the samples that follow.
_PCIE_INTERVAL_S = 1.0
_PCIE_FIGURES = ("pcie_rx_bytes_per_s", "pcie_tx_bytes_per_s")


@dataclass(slots=True)
class _Device:
    """A GPU or MIG instance as NVML knows it; `board_handle` is the physical GPU, which has the sensors."""

    index: int
    handle: Any
    board_handle: Any
    board: int
    is_mig: bool
    name: str
    uuid: str | None
    compute_capability: tuple[int, int] | None
    pcie: tuple[float | None, float | None] = (None, None)
    pcie_gaps: tuple[Gap, ...] = tuple(
        Gap(figure, N_("Measured from the next sample on.")) for figure in _PCIE_FIGURES
    )
    pcie_at_s: float = float("-inf")


@dataclass(frozen=True, slots=True)
class _Memory:
    total_bytes: int | None = None
    free_bytes: int | None = None
    used_bytes: int | None = None


class _Gaps:
    """Collects what could not be read while a reading is put together."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def as_tuple(self) -> tuple[Gap, ...]:
        return tuple(Gap(figure, reason) for figure, reason in self.reasons.items())


class Nvml:
    """Readings of all GPUs; opens the library on first use. Thread-safe.

    `library` has pynvml's names (tests pass a fake), `clock` is monotonic in seconds, and after a failure
    the library is opened again no sooner than `retry_s` later.
    """

    def __init__(
        self,
        library: ModuleType = pynvml,
        *,
        clock: Callable[[], float] = time.monotonic,
        retry_s: float = 5.0,
    ) -> None:
        self._library = library
        self._clock = clock
        self._retry_s = retry_s
        # Guards the handles: the library must not be opened again under another thread's query.
        self._lock = threading.Lock()
        self._is_open = False
        self._reopen_at_s: float | None = clock()
        self._devices: tuple[_Device, ...] = ()
        self._problem: ErrorInfo | None = None

    def problem(self) -> ErrorInfo | None:
        """Return why some or all figures are missing right now; None while all is well."""
        with self._lock:
            self._refresh()
            return self._problem

    def driver_version(self) -> str | None:
        """Such as "580.95.05"; None without a driver."""
        with self._lock:
            return self._ask_library(self._library.nvmlSystemGetDriverVersion)

    def cuda_version(self) -> tuple[int, int] | None:
        """The newest CUDA version that the driver serves, as (major, minor)."""
        with self._lock:
            number = self._ask_library(self._library.nvmlSystemGetCudaDriverVersion)
        return None if number is None else (number // 1000, number % 1000 // 10)

    def devices(self) -> tuple[GpuFacts, ...]:
        """Every usable GPU or MIG instance with its free memory now; empty without an NVIDIA GPU."""
        with self._lock:
            self._refresh()
            return tuple(self._facts(device) for device in self._devices)

    def readings(self) -> tuple[GpuReading, ...]:
        """All sensors of every GPU or MIG instance; PCIe figures are those of the second before."""
        with self._lock:
            self._refresh()
            readings = tuple(self._reading(device) for device in self._devices)
            self._renew_pcie()
            return readings

    def close(self) -> None:
        """Release the library; a later call opens it again."""
        with self._lock:
            self._shutdown()
            self._devices = ()
            self._reopen_at_s = self._clock()

    # The funnel: every query of the library passes through _ask.

    def _ask(self, gaps: _Gaps, figure: str, query: Callable[..., T], *args: object) -> T | None:
        try:
            return query(*args)
        except (self._library.NVMLError, self._library.NVMLLibraryMismatchError) as error:
            gaps.reasons[figure] = reason_of(self._library, error)
            if problem := problem_of(self._library, error):
                self._reopen_later(problem)
            return None

    def _ask_library(self, query: Callable[[], T]) -> T | None:
        self._refresh()
        return self._ask(_Gaps(), "library", query) if self._is_open else None

    # Opening, and opening again after errors that the present handles can't recover from.

    def _reopen_later(self, problem: ErrorInfo) -> None:
        self._problem = problem
        if self._reopen_at_s is None:
            self._reopen_at_s = self._clock() + self._retry_s

    def _refresh(self) -> None:
        if self._reopen_at_s is None or self._clock() < self._reopen_at_s:
            return
        self._shutdown()
        self._devices, self._problem, self._reopen_at_s = (), None, None
        try:
            self._library.nvmlInit()
            self._is_open = True
            self._devices = self._list_devices()
        except self._library.NVMLError as error:
            self._reopen_later(failure_of(self._library, error))

    def _shutdown(self) -> None:
        if self._is_open:
            self._is_open = False
            self._ask(_Gaps(), "shutdown", self._library.nvmlShutdown)

    def _list_devices(self) -> tuple[_Device, ...]:
        lib = self._library
        devices: list[_Device] = []
        index = 0
        for board in range(lib.nvmlDeviceGetCount()):
            handle = self._ask(_Gaps(), "handle", lib.nvmlDeviceGetHandleByIndex, board)
            if handle is None:
                index += 1  # a lost or forbidden GPU keeps its number, so that the others keep theirs
                continue
            for part in self._parts(handle):
                devices.append(self._device(index, part, handle, board))
                index += 1
        return tuple(devices)

    def _parts(self, board_handle: object) -> list[Any]:
        """The GPU itself, or in MIG mode its instances, which CUDA then uses instead."""
        lib, gaps = self._library, _Gaps()
        mode = self._ask(gaps, "mig", lib.nvmlDeviceGetMigMode, board_handle)
        if mode is None or mode[0] != lib.NVML_DEVICE_MIG_ENABLE:
            return [board_handle]
        limit = self._ask(gaps, "mig", lib.nvmlDeviceGetMaxMigDeviceCount, board_handle) or 0
        slots = (
            self._ask(gaps, "mig", lib.nvmlDeviceGetMigDeviceHandleByIndex, board_handle, slot)
            for slot in range(limit)
        )
        instances = [instance for instance in slots if instance is not None]
        if not instances:
            self._reopen_later(MIG_WITHOUT_INSTANCES)
        return instances

    def _device(self, index: int, handle: object, board_handle: object, board: int) -> _Device:
        lib, gaps = self._library, _Gaps()
        capability = self._ask(gaps, "capability", lib.nvmlDeviceGetCudaComputeCapability, board_handle)
        return _Device(
            index=index,
            handle=handle,
            board_handle=board_handle,
            board=board,
            is_mig=handle is not board_handle,
            name=self._ask(gaps, "name", lib.nvmlDeviceGetName, handle) or f"GPU {board}",
            uuid=self._ask(gaps, "uuid", lib.nvmlDeviceGetUUID, handle),
            compute_capability=None if capability is None else (capability[0], capability[1]),
        )

    # Reading one device.

    def _facts(self, device: _Device) -> GpuFacts:
        gaps = _Gaps()
        memory = self._memory(device, gaps)
        return GpuFacts(
            index=device.index,
            name=device.name,
            total_bytes=memory.total_bytes,
            free_bytes=memory.free_bytes,
            used_bytes=memory.used_bytes,
            uuid=device.uuid,
            board=device.board,
            is_mig=device.is_mig,
            compute_capability=device.compute_capability,
            gaps=gaps.as_tuple(),
        )

    def _reading(self, device: _Device) -> GpuReading:
        lib, gaps, board = self._library, _Gaps(), device.board_handle
        memory = self._memory(device, gaps)
        use = self._ask(gaps, "utilisation_ratio", lib.nvmlDeviceGetUtilizationRates, board)
        gaps.reasons.update({gap.figure: gap.reason for gap in device.pcie_gaps})
        rx, tx = device.pcie

        def sensor(figure: str, scale: float, query: Callable[..., int], *args: object) -> float | None:
            return _scaled(self._ask(gaps, figure, query, board, *args), scale)

        return GpuReading(
            index=device.index,
            name=device.name,
            board=device.board,
            is_mig=device.is_mig,
            total_bytes=memory.total_bytes,
            free_bytes=memory.free_bytes,
            used_bytes=memory.used_bytes,
            utilisation_ratio=None if use is None else use.gpu / 100,
            power_w=sensor("power_w", 1e-3, lib.nvmlDeviceGetPowerUsage),
            energy_j=sensor("energy_j", 1e-3, lib.nvmlDeviceGetTotalEnergyConsumption),
            temperature_c=sensor(
                "temperature_c", 1.0, lib.nvmlDeviceGetTemperature, lib.NVML_TEMPERATURE_GPU
            ),
            sm_clock_hz=sensor("sm_clock_hz", 1e6, lib.nvmlDeviceGetClockInfo, lib.NVML_CLOCK_SM),
            memory_clock_hz=sensor("memory_clock_hz", 1e6, lib.nvmlDeviceGetClockInfo, lib.NVML_CLOCK_MEM),
            throttle_reasons=self._throttle_reasons(device, gaps),
            pcie_rx_bytes_per_s=rx,
            pcie_tx_bytes_per_s=tx,
            processes=self._processes(device, gaps),
            gaps=gaps.as_tuple(),
        )

    def _memory(self, device: _Device, gaps: _Gaps) -> _Memory:
        """NVML's v2 figures, where `used` leaves out what the driver keeps for itself; v1 on old drivers."""
        query, version = self._library.nvmlDeviceGetMemoryInfo, self._library.nvmlMemory_v2
        memory = self._ask(_Gaps(), "memory", query, device.handle, version)
        if memory is None:
            memory = self._ask(gaps, "memory", query, device.handle)
        return _Memory() if memory is None else _Memory(memory.total, memory.free, memory.used)

    def _throttle_reasons(self, device: _Device, gaps: _Gaps) -> tuple[str, ...] | None:
        lib = self._library
        # The older of the two names of this query: it answers on every driver.
        query = lib.nvmlDeviceGetCurrentClocksThrottleReasons
        bits = self._ask(gaps, "throttle_reasons", query, device.board_handle)
        if bits is None:
            return None
        names = {
            lib.nvmlClocksThrottleReasonApplicationsClocksSetting: N_("application clocks"),
            lib.nvmlClocksThrottleReasonSwPowerCap: N_("power cap"),
            lib.nvmlClocksThrottleReasonHwSlowdown: N_("hardware slowdown"),
            lib.nvmlClocksThrottleReasonSyncBoost: N_("sync boost"),
            lib.nvmlClocksThrottleReasonSwThermalSlowdown: N_("thermal (driver)"),
            lib.nvmlClocksThrottleReasonHwThermalSlowdown: N_("thermal (hardware)"),
            lib.nvmlClocksThrottleReasonHwPowerBrakeSlowdown: N_("power brake"),
        }
        return tuple(name for bit, name in names.items() if bits & bit)

    def _renew_pcie(self) -> None:
        now_s = self._clock()
        device = min(self._devices, key=lambda device: device.pcie_at_s, default=None)
        if device is None or now_s - device.pcie_at_s < _PCIE_INTERVAL_S:
            return
        lib, gaps = self._library, _Gaps()
        rx, tx = (
            self._ask(gaps, figure, lib.nvmlDeviceGetPcieThroughput, device.board_handle, counter)
            for figure, counter in zip(
                _PCIE_FIGURES, (lib.NVML_PCIE_UTIL_RX_BYTES, lib.NVML_PCIE_UTIL_TX_BYTES), strict=True
            )
        )
        device.pcie = (_scaled(rx, 1e3), _scaled(tx, 1e3))
        device.pcie_gaps, device.pcie_at_s = gaps.as_tuple(), now_s

    def _processes(self, device: _Device, gaps: _Gaps) -> tuple[ProcessMemory, ...] | None:
        query = self._library.nvmlDeviceGetComputeRunningProcesses
        listed = self._ask(gaps, "processes", query, device.handle)
        if listed is None:
            return None
        if any(process.usedGpuMemory is None for process in listed):
            gaps.reasons["processes"] = N_("This driver lists processes without their memory.")
        return tuple(ProcessMemory(pid=process.pid, used_bytes=process.usedGpuMemory) for process in listed)


def _scaled(value: int | None, factor: float) -> float | None:
    return None if value is None else value * factor


def describe_machine(nvml: Nvml | None = None) -> Machine:
    """Return what can be told about this machine; None for what can't. Never raises. Thread-safe.

    `nvml` is used if given, otherwise one is opened and closed again.
    """
    own = nvml is None
    nvml = nvml or Nvml()
    try:
        return Machine(
            host=platform.node() or "unknown",
            platform=platform.platform(),
            python=platform.python_version(),
            cpu=_cpu_name(),
            cores=_usable_cores(),
            memory_bytes=psutil.virtual_memory().total,
            gpus=tuple(_gpu_text(gpu.name, gpu.total_bytes) for gpu in nvml.devices()),
            driver=nvml.driver_version(),
        )
    finally:
        if own:
            nvml.close()


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Main memory: all of it, and what programs can still get without swapping."""

    total_bytes: int
    available_bytes: int


def host_memory() -> HostMemory:
    memory = psutil.virtual_memory()
    return HostMemory(int(memory.total), int(memory.available))


def available_bytes() -> int:
    """Memory that programs can still get without swapping."""
    return host_memory().available_bytes


def _gpu_text(name: str, total_bytes: int | None) -> str:
    return name if total_bytes is None else f"{name}, {gib(total_bytes)}"


def _usable_cores() -> int | None:
    """Cores that this process may run on: fewer than the machine has in many containers."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _cpu_name() -> str | None:
    """The CPU's model name; `platform.processor()` knows only its architecture on Linux and macOS."""
    try:
        if sys.platform == "linux":
            return _cpuinfo_name(Path("/proc/cpuinfo").read_text("utf-8"))
        if sys.platform == "darwin":
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            run = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
            return run.stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
    return platform.processor() or None


def _cpuinfo_name(cpuinfo: str) -> str | None:
    """`model name` on x86; Arm kernels give none."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip() or None
    return None
