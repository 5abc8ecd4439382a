"""NVML's return codes in words: which of them concern one figure, and which the driver or a GPU as a whole.

`library` has pynvml's names; it is passed in, since `core.telemetry.nvml` alone imports it.
"""

from types import ModuleType

from core.domain.turns import ErrorInfo

_RELOAD_HINT = "Restart the machine, or reload the nvidia kernel modules."
_CPU_HINT = "Lanes on the CPU and remote endpoints work without it."

MIG_WITHOUT_INSTANCES = ErrorInfo(
    "mig-without-instances",
    "A GPU is in MIG mode, but has no instance that CUDA could use",
    "Create an instance with `nvidia-smi mig -cgi … -C`, or switch MIG off.",
)


def code_of(library: ModuleType, error: Exception) -> int:
    """NVML's number for the error, its "unknown" for one without."""
    if isinstance(error, library.NVMLLibraryMismatchError):
        return int(library.NVML_ERROR_FUNCTION_NOT_FOUND)
    return int(error.value) if isinstance(error, library.NVMLError) else int(library.NVML_ERROR_UNKNOWN)


def reason_of(library: ModuleType, error: Exception) -> str:
    """Why a figure is missing, for the gap in a chart."""
    if problem := problem_of(library, error):
        return problem.message
    reasons = {
        library.NVML_ERROR_NOT_SUPPORTED: "Not offered by this GPU or driver",
        library.NVML_ERROR_FUNCTION_NOT_FOUND: "Not offered by a driver this old",
        library.NVML_ERROR_NO_PERMISSION: "Not permitted to this user",
        library.NVML_ERROR_NO_DATA: "The driver has no figure yet",
        library.NVML_ERROR_NOT_READY: "The GPU is not ready",
        library.NVML_ERROR_TIMEOUT: "The driver did not answer in time",
    }
    return reasons.get(code_of(library, error), f"The driver says: {error}")


def problem_of(library: ModuleType, error: Exception) -> ErrorInfo | None:
    """The state of the driver or a GPU that an error stands for; None if it concerns a single figure."""
    problems = {
        library.NVML_ERROR_LIBRARY_NOT_FOUND: ErrorInfo(
            "no-nvidia-driver",
            "No NVIDIA driver is installed",
            f"{_CPU_HINT} For lanes on a GPU install NVIDIA's driver.",
        ),
        library.NVML_ERROR_DRIVER_NOT_LOADED: ErrorInfo(
            "driver-not-loaded",
            "The NVIDIA driver is installed, but not loaded",
            "Load the nvidia kernel module; start a container with `--gpus all`.",
        ),
        library.NVML_ERROR_LIB_RM_VERSION_MISMATCH: ErrorInfo(
            "driver-mismatch",
            "The NVIDIA driver was updated, but its old kernel module is still loaded",
            _RELOAD_HINT,
        ),
        library.NVML_ERROR_UNINITIALIZED: ErrorInfo(
            "driver-gone", "The connection to the NVIDIA driver was lost", _RELOAD_HINT
        ),
        library.NVML_ERROR_GPU_IS_LOST: ErrorInfo(
            "gpu-lost",
            "A GPU has fallen off the bus",
            "Look for Xid messages in the kernel log, mostly power or heat, and restart the machine.",
        ),
        library.NVML_ERROR_RESET_REQUIRED: ErrorInfo(
            "gpu-reset-required", "A GPU needs a reset", _RELOAD_HINT
        ),
        library.NVML_ERROR_UNKNOWN: ErrorInfo(
            "driver-failed", "The NVIDIA driver reports an unknown error", _RELOAD_HINT
        ),
    }
    return problems.get(code_of(library, error))


def failure_of(library: ModuleType, error: Exception) -> ErrorInfo:
    """Why the library could not be opened at all."""
    return problem_of(library, error) or ErrorInfo(
        "driver-failed", f"The NVIDIA driver can't be asked: {error}", _CPU_HINT
    )
