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
from core.telemetry.gpus import GpuFacts

_REINSTALL = "Install the versions of requirements.txt: pip install -r requirements.txt"
_CUDA_12_TORCH = "or install torch's CUDA 12 build (see PyTorch's installation page)"


def stack_findings(
    stack: EngineStack, *, driver: str | None, gpus: Sequence[GpuFacts], own: bool
) -> Iterator[Finding]:
    """What an environment holds and what in it does not fit. `own` is the one that LMDyno runs in."""
    where = "engines" if own else f"engines in {stack.python}"
    if stack.problem is not None:
        yield Finding(Status.FAIL, where, stack.problem, "Correct `python` of the lanes that name it.")
        return
    versions = ", ".join(f"{name} {version}" for name, version in stack.versions.items())
    yield Finding(
        Status.INFO, where, f"Python {stack.python_version}: {versions or 'no engine is installed'}"
    )
    for broken in unmet_bounds(stack.lmdeploy_needs, stack.versions):
        yield Finding(Status.WARN, f"{where}: LMDeploy's bounds", broken, _REINSTALL)
    transformers = stack.versions.get("transformers")
    if transformers and "lmdeploy" in stack.versions and breaks_llava(transformers):
        yield Finding(
            Status.WARN,
            f"{where}: LLaVA",
            f"Images fail with transformers {transformers}",
            f"LLaVA needs transformers {LLAVA_TRANSFORMERS}.",
        )
    if "torch" in stack.versions:
        yield from _torch(stack, where, driver, gpus)
    if "lmdeploy" in stack.versions:
        yield from _turbomind(stack, where, driver, gpus)


def turbomind_problem(
    stack: EngineStack, *, driver: str | None, gpus: Sequence[GpuFacts]
) -> tuple[str, str] | None:
    """(what is wrong, what to do) if TurboMind can't serve on this machine's GPUs; None if it can."""
    if driver and (minimum := driver_needed(driver, TURBOMIND_CUDA_MAJOR)):
        return (
            f"Driver {driver} is too old: TurboMind is built for CUDA 12, which needs {minimum} or newer",
            "Update NVIDIA's driver.",
        )
    if not stack.turbomind_loads:
        return (
            f"TurboMind can't be imported: {stack.turbomind_problem}",
            "LMDeploy would silently use its PyTorch engine. Install its CUDA 12 libraries: "
            "nvidia-cublas-cu12, nvidia-cuda-runtime-cu12, nvidia-nccl-cu12.",
        )
    known = [gpu for gpu in gpus if gpu.compute_capability is not None]
    if known and not any(
        gpu.compute_capability and turbomind_serves(gpu.compute_capability) for gpu in known
    ):
        return (
            f"LMDeploy's build has no TurboMind kernels for {known[0].name}",
            "Use a transformers or pytorch lane on this GPU.",
        )
    return None


def torch_problem(
    stack: EngineStack, *, driver: str | None, gpus: Sequence[GpuFacts]
) -> tuple[str, str] | None:
    """(what is wrong, what to do) if PyTorch can't use this machine's GPUs; None if it can."""
    torch = stack.torch
    if torch is None:
        return f"torch can't be imported: {stack.torch_problem}", _REINSTALL
    if torch.cuda is None:
        return "torch is a CPU-only build", "Install torch's CUDA build: pip install -r requirements.txt"
    if not torch.sees_gpu:
        major = int(torch.cuda.split(".")[0])
        if driver and (minimum := driver_needed(driver, major)):
            return (
                f"Driver {driver} is too old: torch is built for CUDA {torch.cuda}, "
                f"which needs {minimum} or newer",
                f"Update NVIDIA's driver, {_CUDA_12_TORCH}.",
            )
        return (
            f"torch (CUDA {torch.cuda}) sees no GPU, although the driver does",
            "Look at CUDA_VISIBLE_DEVICES, and at the driver's own check: nvidia-smi",
        )
    for gpu in gpus:
        capability = gpu.compute_capability
        if capability and torch.architectures and not torch_serves(capability, torch.architectures):
            return (
                f"torch has no kernels for {gpu.name} (compute capability {capability[0]}.{capability[1]})",
                f"Use another GPU, {_CUDA_12_TORCH}, which serves older ones.",
            )
    return None


def _torch(stack: EngineStack, where: str, driver: str | None, gpus: Sequence[GpuFacts]) -> Iterator[Finding]:
    what = f"{where}: torch"
    if stack.torch is None:
        yield Finding(Status.FAIL, what, f"torch can't be imported: {stack.torch_problem}", _REINSTALL)
    elif not gpus:
        build = f"built for CUDA {stack.torch.cuda}" if stack.torch.cuda else "a CPU-only build"
        yield Finding(Status.OK, what, f"{build}; no GPU is here")
    elif problem := torch_problem(stack, driver=driver, gpus=gpus):
        yield Finding(Status.FAIL, what, *problem)
    else:
        yield Finding(Status.OK, what, f"CUDA {stack.torch.cuda}, reaches the GPU with driver {driver}")


def _turbomind(
    stack: EngineStack, where: str, driver: str | None, gpus: Sequence[GpuFacts]
) -> Iterator[Finding]:
    what = f"{where}: TurboMind"
    if not gpus:
        yield Finding(Status.INFO, what, "TurboMind needs an NVIDIA GPU, and none is here")
    elif problem := turbomind_problem(stack, driver=driver, gpus=gpus):
        yield Finding(Status.FAIL, what, *problem)
    else:
        yield Finding(Status.OK, what, "It can be imported and has kernels for this GPU")
