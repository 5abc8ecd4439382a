"""Findings about the engines' Python environments: versions, and whether they fit driver and GPUs."""

from collections.abc import Iterator, Sequence

from core.doctor.compatibility import (
    LLAVA_TRANSFORMERS,
    TURBOMIND_CUDA_MAJOR,
    breaks_llava,
    driver_needed,
    torch_serves,
    turbomind_serves,
    unmet_bounds,
)
from core.doctor.findings import Finding, Status
from core.doctor.probe import EngineStack
from core.i18n import N_, Message
from core.telemetry.gpus import GpuFacts

_REINSTALL = N_("Install the versions in requirements.txt: `pip install -r requirements.txt`")


def stack_findings(
    stack: EngineStack, *, driver: str | None, gpus: Sequence[GpuFacts], own: bool
) -> Iterator[Finding]:
    """What an environment holds and what in it does not fit. `own` is the one that LMDyno runs in."""
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
