"""Findings about the machine: Python, processor, memory, disk, GPUs and their driver."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from core import process_setup, units
from core.doctor.findings import Finding, Status
from core.domain.turns import Machine
from core.i18n import N_, Text
from core.settings import Settings
from core.telemetry.gpus import GpuFacts
from core.telemetry.machine import available_bytes
from core.telemetry.nvml import Nvml

_PYTHONS = ((3, 11), (3, 13))
_SCARCE_MEMORY_BYTES = 2 * 2**30
_SCARCE_DISK_BYTES = 5 * 2**30
_FULL_DISK_BYTES = 512 * 2**20


def machine_findings(settings: Settings, machine: Machine, nvml: Nvml) -> Iterator[Finding]:
    """Yield what the machine offers, from its Python to its GPUs."""
    yield _python(machine, (sys.version_info.major, sys.version_info.minor))
    yield Finding(
        Status.INFO,
        N_("Machine"),
        N_(
            "{platform} · {cpu} · {n} cores",
            platform=machine.platform,
            cpu=machine.cpu or "CPU",
            n=machine.cores,
        ),
    )
    yield _memory(machine.memory_bytes, available_bytes())
    yield _disk(settings.home)
    yield _open_files(process_setup.open_files_allowed())
    yield from _gpus(nvml)


def _python(machine: Machine, version: tuple[int, int]) -> Finding:
    if _PYTHONS[0] <= version <= _PYTHONS[1]:
        return Finding(Status.OK, "Python", machine.python)
    return Finding(
        Status.WARN,
        "Python",
        N_("{version}, but LMDyno needs 3.11 to 3.13.", version=machine.python),
        N_("Recreate the environment with one of these versions: `python3.12 -m venv .venv`"),
    )


def _memory(total: int | None, available: int) -> Finding:
    detail = N_("{available} of {total} available", available=units.gib(available), total=units.gib(total))
    if available >= _SCARCE_MEMORY_BYTES:
        return Finding(Status.OK, N_("Memory"), detail)
    return Finding(
        Status.WARN,
        N_("Memory"),
        detail,
        N_("Close other programs. An engine keeps its whole model in memory."),
    )


def _disk(home: Path) -> Finding:
    existing = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    detail = N_("{free} free at {path}", free=units.gib(free), path=home)
    if free < _FULL_DISK_BYTES:
        remedy = N_("Free some space, or set LMDYNO_HOME to a folder on another disk.")
        return Finding(Status.FAIL, N_("Disk"), detail, remedy)
    if free < _SCARCE_DISK_BYTES:
        remedy = N_("Models need more space. Set LMDYNO_HOME to a folder on a larger disk.")
        return Finding(Status.WARN, N_("Disk"), detail, remedy)
    return Finding(Status.OK, N_("Disk"), detail)


def _open_files(limit: int) -> Finding:
    tabs = limit // process_setup.FILES_PER_TAB
    detail = N_("Up to {n} open at once, enough for about {tabs} browser tabs", n=limit, tabs=tabs)
    if limit >= process_setup.ENOUGH_FILES:
        return Finding(Status.OK, N_("Open files"), detail)
    return Finding(
        Status.WARN,
        N_("Open files"),
        detail,
        N_("Raise the hard limit before you share the dashboard: `ulimit -Hn`, or LimitNOFILE in systemd."),
    )


def _gpus(nvml: Nvml) -> Iterator[Finding]:
    driver, cuda = nvml.driver_version(), nvml.cuda_version()
    if driver is not None:
        detail: Text = driver
        if cuda:
            detail = N_("{driver}, supports CUDA up to {cuda}", driver=driver, cuda=f"{cuda[0]}.{cuda[1]}")
        yield Finding(Status.OK, N_("NVIDIA driver"), detail)
    devices = nvml.devices()
    yield from (_gpu(device) for device in devices)
    if problem := nvml.problem():
        # No driver is how most laptops are; a driver that fails is not.
        status = Status.INFO if problem.code == "no-nvidia-driver" else Status.WARN
        yield Finding(status, "GPU", problem.message, problem.hint)
    elif not devices:
        yield Finding(Status.INFO, "GPU", N_("The driver lists no GPU."), N_("Lanes run on the CPU."))


def _gpu(device: GpuFacts) -> Finding:
    what = f"GPU {device.index}"
    if device.free_bytes is None or device.total_bytes is None:
        return Finding(Status.INFO, what, N_("{gpu}, shares the machine's memory", gpu=device.name))
    capability = device.compute_capability
    detail = N_(
        "{gpu} · {free} of {total} free · compute capability {capability}",
        gpu=device.name,
        free=units.gib(device.free_bytes),
        total=units.gib(device.total_bytes),
        capability=f"{capability[0]}.{capability[1]}" if capability else units.UNKNOWN,
    )
    if device.free_bytes < device.total_bytes / 2:
        return Finding(
            Status.WARN,
            what,
            detail,
            N_("Other programs use much of its memory. To list them, run `nvidia-smi`."),
        )
    return Finding(Status.OK, what, detail)
