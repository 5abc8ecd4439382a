"""The machine that a turn ran on, for its record."""

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from core.domain.turns import Machine
from core.telemetry.nvml import Nvml
from core.units import gib


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
