"""What is known about versions that do and don't work together. Tables and pure functions.

Sources:
- Drivers: NVIDIA, "CUDA Compatibility", minor version compatibility
  (https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html).
- TurboMind's GPU architectures and CUDA version: the kernels inside LMDeploy's wheel, 0.18.0.
- LMDeploy's bounds on other packages: the metadata of the installed version.
- transformers for LLaVA: image preprocessing fails with 5.17.0 and works with 5.23.0.
"""

from collections.abc import Iterable, Mapping

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from core.i18n import N_, Message

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
