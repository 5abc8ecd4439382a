"""Findings about the machine: Python, processor, memory, disk, GPUs and their driver."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from core import units
from core.doctor.findings import Finding, Status
from core.domain.turns import Machine
from core.settings import Settings
from core.telemetry.gpus import GpuFacts
from core.telemetry.machine import available_bytes
from core.telemetry.nvml import Nvml

_PYTHONS = ((3, 11), (3, 13))
_SCARCE_MEMORY_BYTES = 2 * 2**30
_SCARCE_DISK_BYTES = 5 * 2**30
_FULL_DISK_BYTES = 512 * 2**20


def machine_findings(settings: Settings, machine: Machine, nvml: Nvml) -> Iterator[Finding]:
    """What the machine offers, from its Python to its GPUs."""
    yield _python(machine, (sys.version_info.major, sys.version_info.minor))
    yield Finding(
        Status.INFO, "machine", f"{machine.platform} · {machine.cpu or 'CPU'} · {machine.cores} cores"
    )
    yield _memory(machine.memory_bytes, available_bytes())
    yield _disk(settings.home)
    yield from _gpus(nvml)


def _python(machine: Machine, version: tuple[int, int]) -> Finding:
    if _PYTHONS[0] <= version <= _PYTHONS[1]:
        return Finding(Status.OK, "Python", machine.python)
    return Finding(
        Status.WARN,
        "Python",
        f"{machine.python}, but LMDyno is made for 3.11 to 3.13",
        "Create the environment with one of these: python3.12 -m venv .venv",
    )


def _memory(total: int | None, available: int) -> Finding:
    detail = f"{units.gib(available)} of {units.gib(total)} available"
    if available >= _SCARCE_MEMORY_BYTES:
        return Finding(Status.OK, "memory", detail)
    return Finding(
        Status.WARN, "memory", detail, "Close other programs: an engine holds its whole model in memory."
    )


def _disk(home: Path) -> Finding:
    existing = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    detail = f"{units.gib(free)} free at {home}"
    if free < _FULL_DISK_BYTES:
        return Finding(Status.FAIL, "disk", detail, "Free some space, or let LMDYNO_HOME name another disk.")
    if free < _SCARCE_DISK_BYTES:
        return Finding(Status.WARN, "disk", detail, "Models need more: let LMDYNO_HOME name a larger disk.")
    return Finding(Status.OK, "disk", detail)


def _gpus(nvml: Nvml) -> Iterator[Finding]:
    driver, cuda = nvml.driver_version(), nvml.cuda_version()
    if driver is not None:
        serves = f", serves CUDA up to {cuda[0]}.{cuda[1]}" if cuda else ""
        yield Finding(Status.OK, "NVIDIA driver", f"{driver}{serves}")
    devices = nvml.devices()
    yield from (_gpu(device) for device in devices)
    if problem := nvml.problem():
        # No driver is how most laptops are; a driver that fails is not.
        status = Status.INFO if problem.code == "no-nvidia-driver" else Status.WARN
        yield Finding(status, "GPU", problem.message, problem.hint)
    elif not devices:
        yield Finding(Status.INFO, "GPU", "The driver lists no GPU", "Lanes run on the CPU.")


def _gpu(device: GpuFacts) -> Finding:
    what = f"GPU {device.index}"
    if device.free_bytes is None or device.total_bytes is None:
        return Finding(Status.INFO, what, f"{device.name}, which shares the machine's memory")
    capability = device.compute_capability
    family = f" · compute capability {capability[0]}.{capability[1]}" if capability else ""
    free = f"{units.gib(device.free_bytes)} of {units.gib(device.total_bytes)} free"
    if device.free_bytes < device.total_bytes / 2:
        return Finding(
            Status.WARN,
            what,
            f"{device.name} · {free}{family}",
            "Other programs hold much of its memory; nvidia-smi names them.",
        )
    return Finding(Status.OK, what, f"{device.name} · {free}{family}")
