"""The Python environment of an engine: what it can do, and whether it fits this machine's GPUs.

What it can do is found out in that environment. Each question is a small program for a child process of the
engine's interpreter: importing torch takes seconds, and a stack that doesn't fit together may abort or hang
instead of raising. The last line of its standard error is then the reason. Nothing here imports an engine
library.

Sources of what is known about versions that do and don't work together:

- Drivers: NVIDIA, "CUDA Compatibility", minor version compatibility
  (https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html).
- TurboMind's GPU architectures and CUDA version: the kernels inside LMDeploy's wheel, 0.18.0.
- LMDeploy's bounds on other packages: the metadata of the installed version.
- transformers for LLaVA: image preprocessing fails with 5.17.0 and works with 5.23.0.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from core.doctor.fitness import Finding, Status
from core.i18n import N_, Message, Text
from core.telemetry.samples import GpuFacts

_PACKAGES = ("lmdeploy", "transformers", "torch", "torchvision", "triton", "gguf", "datasets")
"""Distributions whose versions decide what an engine can do."""

_TIMEOUT_S = 120.0

_VERSIONS = f"""
import importlib.metadata as metadata, json, platform
versions = {{}}
for name in {_PACKAGES!r}:
    try:
        versions[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
needs = (metadata.requires("lmdeploy") or []) if "lmdeploy" in versions else []
print(json.dumps({{"python": platform.python_version(), "versions": versions, "needs": needs}}))
"""
_TORCH = """
import json, torch
sees_gpu = torch.cuda.is_available()
print(json.dumps({
    "cuda": torch.version.cuda,
    "sees_gpu": sees_gpu,
    "architectures": torch.cuda.get_arch_list() if sees_gpu else [],
}))
"""
_TURBOMIND = """
import json, lmdeploy.turbomind as turbomind
if not turbomind.is_available():
    from lmdeploy.turbomind import _turbomind
print(json.dumps({}))
"""

_REINSTALL = N_("Install the versions in requirements.txt: `pip install -r requirements.txt`")
_MINIMUM_DRIVER = {11: "450", 12: "525", 13: "580"}
"""The oldest driver for each major version of CUDA."""

_TURBOMIND_CUDA_MAJOR = 12
_TURBOMIND_FAMILIES = ((7, 0), (7, 5), (8, 0), (8, 6), (8, 9))
"""Compiled for these; a kernel also runs on later GPUs of the same major version."""
_TURBOMIND_EXACT = ((9, 0), (10, 0), (12, 0))
"""Compiled with features of exactly these (`sm_90a`, `sm_100a`, `sm_120a`)."""

_LLAVA_TRANSFORMERS = "5.23.0"
_LLAVA_BROKEN_UP_TO = "5.17.0"

_BOUND_PACKAGES = ("torch", "torchvision", "transformers", "triton")


@dataclass(frozen=True, slots=True)
class TorchFacts:
    """The build of PyTorch, and whether it reaches a GPU."""

    cuda: str | None
    """CUDA version it was built for, such as "13.0"; None for a CPU-only build."""
    sees_gpu: bool
    architectures: tuple[str, ...]
    """GPU architectures with compiled kernels, such as `sm_90`; empty where it sees no GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStack:
    """One Python environment that engines run in. A `…_problem` is why a question has no answer."""

    python: str
    python_version: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    lmdeploy_needs: tuple[str, ...] = ()
    """LMDeploy's requirements on other packages, in the notation of its metadata."""
    torch: TorchFacts | None = None
    turbomind_loads: bool = False
    problem: Text | None = None
    """Why the interpreter itself could not be asked."""
    torch_problem: Text | None = None
    turbomind_problem: Text | None = None


class ProbeFailed(Exception):
    """A child process that gave no answer, and why."""

    def __init__(self, reason: Text) -> None:
        super().__init__(reason)
        self.reason = reason


def probe_stack(python: str, *, timeout_s: float = _TIMEOUT_S) -> EngineStack:
    """Examine the environment of an interpreter; takes some 10 s where torch is installed. Never raises."""
    try:
        answer = ask(python, _VERSIONS, timeout_s=timeout_s)
    except ProbeFailed as failure:
        return EngineStack(python=python, problem=failure.reason)
    versions: dict[str, str] = answer["versions"]
    with ThreadPoolExecutor(max_workers=2) as pool:
        torch_answer = pool.submit(_ask_if, "torch" in versions, python, _TORCH, timeout_s)
        turbomind_answer = pool.submit(_ask_if, "lmdeploy" in versions, python, _TURBOMIND, timeout_s)
    torch, torch_problem = torch_answer.result()
    turbomind, turbomind_problem = turbomind_answer.result()
    return EngineStack(
        python=python,
        python_version=answer["python"],
        versions=versions,
        lmdeploy_needs=tuple(answer["needs"]),
        torch=None
        if torch is None
        else TorchFacts(torch["cuda"], torch["sees_gpu"], tuple(torch["architectures"])),
        torch_problem=torch_problem,
        turbomind_loads=turbomind is not None,
        turbomind_problem=turbomind_problem,
    )


def _ask_if(
    installed: bool, python: str, program: str, timeout_s: float
) -> tuple[dict[str, Any] | None, Text | None]:
    """(answer, None) or (None, why there is none)."""
    if not installed:
        return None, N_("It isn't installed.")
    try:
        return ask(python, program, timeout_s=timeout_s), None
    except ProbeFailed as failure:
        return None, failure.reason


def ask(python: str, program: str, *, timeout_s: float) -> dict[str, Any]:
    """The JSON object that a program prints last; raises ProbeFailed with the reason if it prints none."""
    try:
        run = subprocess.run(
            [python, "-c", program],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=_environment(python),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProbeFailed(N_("No answer within {time}.", time=f"{timeout_s:g} s")) from None
    except OSError as error:
        raise ProbeFailed(N_("Can't run {path}: {reason}", path=python, reason=error.strerror)) from error
    if run.returncode < 0:
        raise ProbeFailed(
            N_(
                "Ended by {signal}: {line}",
                signal=signal.Signals(-run.returncode).name,
                line=_shortened(_last_line(run.stderr)),
            )
        )
    if run.returncode > 0:
        raise ProbeFailed(_shortened(_last_line(run.stderr)))
    try:
        answer = json.loads(_last_line(run.stdout))
    except json.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        raise ProbeFailed(N_("Unexpected output: {line}", line=_shortened(_last_line(run.stdout))))
    return answer


def _environment(python: str) -> dict[str, str] | None:
    """Another interpreter must not see this one's packages, as PYTHONPATH would make it."""
    if python == sys.executable:
        return None
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


def _shortened(line: str) -> Text:
    return line[:300] or N_("no output")


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
            N_("LLaVA needs transformers {version}.", version=_LLAVA_TRANSFORMERS),
        )
    if "torch" in stack.versions:
        yield from _torch(stack, where, driver, gpus)
    if "lmdeploy" in stack.versions:
        yield from _turbomind(stack, where, driver, gpus)


def turbomind_problem(
    stack: EngineStack, *, driver: str | None, gpus: Sequence[GpuFacts]
) -> tuple[Message, Message] | None:
    """(what is wrong, what to do) if TurboMind can't serve on this machine's GPUs; None if it can."""
    if driver and (minimum := driver_needed(driver, _TURBOMIND_CUDA_MAJOR)):
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
    minimum = _MINIMUM_DRIVER.get(cuda_major)
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
