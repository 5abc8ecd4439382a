"""Findings about the machine and the engines' Python environments, and whether they fit each other.

The machine is Python, processor, memory, disk, GPUs and their driver; an environment is the versions in it.
Sources of what is known about versions that do and don't work together:

- Drivers: NVIDIA, "CUDA Compatibility", minor version compatibility
  (https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html).
- TurboMind's GPU architectures and CUDA version: the kernels inside LMDeploy's wheel, 0.18.0.
- LMDeploy's bounds on other packages: the metadata of the installed version.
- transformers for LLaVA: image preprocessing fails with 5.17.0 and works with 5.23.0.
"""

import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from core import process_setup, units
from core.doctor.fitness import Finding, Status
from core.doctor.probe import EngineStack
from core.domain.turns import Machine
from core.i18n import N_, Message, Text
from core.settings import Settings
from core.telemetry.nvml import Nvml, available_bytes
from core.telemetry.samples import GpuFacts

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


_REINSTALL = N_("Install the versions in requirements.txt: `pip install -r requirements.txt`")
MINIMUM_DRIVER = {11: "450", 12: "525", 13: "580"}
"""The oldest driver for each major version of CUDA."""

TURBOMIND_CUDA_MAJOR = 12
_TURBOMIND_FAMILIES = ((7, 0), (7, 5), (8, 0), (8, 6), (8, 9))
"""Compiled for these; a kernel also runs on later GPUs of the same major version."""
_TURBOMIND_EXACT = ((9, 0), (10, 0), (12, 0))
"""Compiled with features of exactly these (`sm_90a`, `sm_100a`, `sm_120a`)."""

LLAVA_TRANSFORMERS = "5.23.0"
_LLAVA_BROKEN_UP_TO = "5.17.0"

_BOUND_PACKAGES = ("torch", "torchvision", "transformers", "triton")


def stack_findings(
    stack: EngineStack, *, driver: str | None, gpus: Sequence[GpuFacts], own: bool
) -> Iterator[Finding]:
    """Yield what an environment holds and what in it does not fit. `own` is the one that LMDyno runs in."""
    where = N_("Engines") if own else N_("Engines in {python}", python=stack.python)
    if stack.problem is not None:
        yield Finding(Status.FAIL, where, stack.problem, N_("Correct `python` in the lanes that use it."))
        return
    versions = ", ".join(f"{name} {version}" for name, version in stack.versions.items())
    yield Finding(
        Status.INFO,
        where,
        N_(
            "Python {version}: {packages}",
            version=stack.python_version,
            packages=versions or N_("no engine is installed"),
        ),
    )
    for broken in unmet_bounds(stack.lmdeploy_needs, stack.versions):
        yield Finding(Status.WARN, N_("{place}: LMDeploy's requirements", place=where), broken, _REINSTALL)
    transformers = stack.versions.get("transformers")
    if transformers and "lmdeploy" in stack.versions and breaks_llava(transformers):
        yield Finding(
            Status.WARN,
            N_("{place}: {package}", place=where, package="LLaVA"),
            N_("Images fail with transformers {version}.", version=transformers),
            N_("LLaVA needs transformers {version}.", version=LLAVA_TRANSFORMERS),
        )
    if "torch" in stack.versions:
        yield from _torch(stack, where, driver, gpus)
    if "lmdeploy" in stack.versions:
        yield from _turbomind(stack, where, driver, gpus)


def turbomind_problem(
    stack: EngineStack, *, driver: str | None, gpus: Sequence[GpuFacts]
) -> tuple[Message, Message] | None:
    """(what is wrong, what to do) if TurboMind can't serve on this machine's GPUs; None if it can."""
    if driver and (minimum := driver_needed(driver, TURBOMIND_CUDA_MAJOR)):
        return (
            N_(
                "Driver {driver} is too old. TurboMind is built for CUDA 12, which needs {minimum} or later.",
                driver=driver,
                minimum=minimum,
            ),
            N_("Update the NVIDIA driver."),
        )
    if not stack.turbomind_loads:
        return (
            N_("Can't import TurboMind: {reason}", reason=stack.turbomind_problem),
            N_(
                "LMDeploy would silently use its PyTorch engine. Install the CUDA 12 libraries: "
                "nvidia-cublas-cu12, nvidia-cuda-runtime-cu12, nvidia-nccl-cu12."
            ),
        )
    known = [gpu for gpu in gpus if gpu.compute_capability is not None]
    if known and not any(
        gpu.compute_capability and turbomind_serves(gpu.compute_capability) for gpu in known
    ):
        return (
            N_("LMDeploy's build has no TurboMind kernels for {gpu}.", gpu=known[0].name),
            N_("Use a transformers or pytorch lane on this GPU."),
        )
    return None


def torch_problem(
    stack: EngineStack, *, driver: str | None, gpus: Sequence[GpuFacts]
) -> tuple[Message, Message] | None:
    """(what is wrong, what to do) if PyTorch can't use this machine's GPUs; None if it can."""
    torch = stack.torch
    if torch is None:
        return N_("Can't import torch: {reason}", reason=stack.torch_problem), _REINSTALL
    if torch.cuda is None:
        return (
            N_("torch is a CPU-only build."),
            N_("Install torch's CUDA build: `pip install -r requirements.txt`"),
        )
    if not torch.sees_gpu:
        major = int(torch.cuda.split(".")[0])
        if driver and (minimum := driver_needed(driver, major)):
            return (
                N_(
                    "Driver {driver} is too old. torch is built for CUDA {cuda}, which needs {minimum} or "
                    "later.",
                    driver=driver,
                    cuda=torch.cuda,
                    minimum=minimum,
                ),
                N_("Update the NVIDIA driver, or install a torch build for CUDA 12 (see PyTorch's website)."),
            )
        return (
            N_("torch (CUDA {cuda}) finds no GPU, although the driver does.", cuda=torch.cuda),
            N_("Check CUDA_VISIBLE_DEVICES, and run `nvidia-smi`."),
        )
    for gpu in gpus:
        capability = gpu.compute_capability
        if capability and torch.architectures and not torch_serves(capability, torch.architectures):
            return (
                N_(
                    "torch has no kernels for {gpu} (compute capability {capability}).",
                    gpu=gpu.name,
                    capability=f"{capability[0]}.{capability[1]}",
                ),
                N_("Use another GPU, or install a torch build for CUDA 12, which supports older GPUs."),
            )
    return None


def _torch(
    stack: EngineStack, where: Message, driver: str | None, gpus: Sequence[GpuFacts]
) -> Iterator[Finding]:
    what = N_("{place}: {package}", place=where, package="torch")
    if stack.torch is None:
        reason = N_("Can't import torch: {reason}", reason=stack.torch_problem)
        yield Finding(Status.FAIL, what, reason, _REINSTALL)
    elif not gpus and stack.torch.cuda:
        built = N_("Built for CUDA {cuda}. This machine has no GPU.", cuda=stack.torch.cuda)
        yield Finding(Status.OK, what, built)
    elif not gpus:
        yield Finding(Status.OK, what, N_("CPU-only build. This machine has no GPU."))
    elif problem := torch_problem(stack, driver=driver, gpus=gpus):
        yield Finding(Status.FAIL, what, *problem)
    else:
        reached = N_(
            "Reaches the GPU with CUDA {cuda} and driver {driver}.", cuda=stack.torch.cuda, driver=driver
        )
        yield Finding(Status.OK, what, reached)


def _turbomind(
    stack: EngineStack, where: Message, driver: str | None, gpus: Sequence[GpuFacts]
) -> Iterator[Finding]:
    what = N_("{place}: {package}", place=where, package="TurboMind")
    if not gpus:
        yield Finding(Status.INFO, what, N_("TurboMind needs an NVIDIA GPU, but this machine has none."))
    elif problem := turbomind_problem(stack, driver=driver, gpus=gpus):
        yield Finding(Status.FAIL, what, *problem)
    else:
        yield Finding(Status.OK, what, N_("Can be imported and has kernels for this GPU."))


def driver_needed(driver: str, cuda_major: int) -> str | None:
    """The driver version that CUDA of this major version needs at least; None if `driver` is new enough.

    None also for CUDA versions and drivers that the table can't judge.
    """
    minimum = MINIMUM_DRIVER.get(cuda_major)
    if minimum is None:
        return None
    try:
        return minimum if Version(driver) < Version(minimum) else None
    except InvalidVersion:
        return None


def turbomind_serves(capability: tuple[int, int]) -> bool:
    """Whether LMDeploy's wheel has TurboMind kernels for a GPU of this compute capability."""
    return capability in _TURBOMIND_EXACT or any(
        capability[0] == major and capability[1] >= minor for major, minor in _TURBOMIND_FAMILIES
    )


def torch_serves(capability: tuple[int, int], architectures: Iterable[str]) -> bool:
    """Whether PyTorch has kernels for the GPU, or code that the driver can translate for it."""
    return any(_arch_serves(capability, architecture) for architecture in architectures)


def unmet_bounds(needs: Iterable[str], versions: Mapping[str, str]) -> tuple[Message, ...]:
    """LMDeploy's requirements on engine packages that the installed versions break, in words."""
    broken = []
    for text in needs:
        try:
            need = Requirement(text)
        except InvalidRequirement:
            continue
        applies = need.marker is None or need.marker.evaluate({"extra": ""})
        installed = versions.get(need.name)
        if applies and need.name in _BOUND_PACKAGES and installed is not None:
            # A build such as 2.12.1+cu130 satisfies <=2.12.1.
            public = Version(installed).public
            if not need.specifier.contains(public, prereleases=True):
                broken.append(
                    N_(
                        "{package} {version} is outside {bounds}.",
                        package=need.name,
                        version=installed,
                        bounds=need.specifier,
                    )
                )
    return tuple(dict.fromkeys(broken))


def breaks_llava(transformers: str) -> bool:
    """Whether this version of transformers is known to fail on LLaVA's images."""
    return Version(transformers) <= Version(_LLAVA_BROKEN_UP_TO)


def _arch_serves(capability: tuple[int, int], architecture: str) -> bool:
    """`sm_80` serves 8.0 and later 8.x, `sm_90a` 9.0 alone, `compute_90` by translation all from 9.0 on."""
    kind, _, number = architecture.partition("_")
    digits = number.rstrip("af")
    if not digits.isdigit():
        return False
    built = (int(digits[:-1]), int(digits[-1]))
    if number.endswith("a"):
        return capability == built
    if kind == "compute":
        return capability >= built
    return capability[0] == built[0] and capability[1] >= built[1]
