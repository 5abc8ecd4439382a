"""NVML's return codes in words: which of them concern one figure, and which the driver or a GPU as a whole.

`library` has pynvml's names; it is passed in, since `core.telemetry.nvml` alone imports it.
"""

from types import ModuleType

from core.domain.turns import ErrorInfo
from core.i18n import N_

_RELOAD_HINT = N_("Restart the machine, or reload the nvidia kernel modules.")
_CPU_HINT = N_("Lanes on the CPU and endpoints work without it.")

MIG_WITHOUT_INSTANCES = ErrorInfo(
    "mig-without-instances",
    N_("A GPU is in MIG mode but has no instance that CUDA can use."),
    N_("Create an instance with `nvidia-smi mig -cgi … -C`, or turn MIG off."),
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
        library.NVML_ERROR_NOT_SUPPORTED: N_("Not supported by this GPU or driver."),
        library.NVML_ERROR_FUNCTION_NOT_FOUND: N_("Not supported by this old driver."),
        library.NVML_ERROR_NO_PERMISSION: N_("Not permitted for this user."),
        library.NVML_ERROR_NO_DATA: N_("The driver has no value yet."),
        library.NVML_ERROR_NOT_READY: N_("The GPU is not ready."),
        library.NVML_ERROR_TIMEOUT: N_("The driver didn't respond in time."),
    }
    return reasons.get(code_of(library, error)) or N_("The driver reports: {reason}", reason=error)


def problem_of(library: ModuleType, error: Exception) -> ErrorInfo | None:
    """The state of the driver or a GPU that an error stands for; None if it concerns a single figure."""
    problems = {
        library.NVML_ERROR_LIBRARY_NOT_FOUND: ErrorInfo(
            "no-nvidia-driver",
            N_("No NVIDIA driver is installed."),
            N_(
                "Lanes on the CPU and endpoints work without it. For lanes on a GPU, install the NVIDIA "
                "driver."
            ),
        ),
        library.NVML_ERROR_DRIVER_NOT_LOADED: ErrorInfo(
            "driver-not-loaded",
            N_("The NVIDIA driver is installed but not loaded."),
            N_("Load the nvidia kernel module. Start containers with `--gpus all`."),
        ),
        library.NVML_ERROR_LIB_RM_VERSION_MISMATCH: ErrorInfo(
            "driver-mismatch",
            N_("The NVIDIA driver was updated, but its old kernel module is still loaded."),
            _RELOAD_HINT,
        ),
        library.NVML_ERROR_UNINITIALIZED: ErrorInfo(
            "driver-gone", N_("The connection to the NVIDIA driver was lost."), _RELOAD_HINT
        ),
        library.NVML_ERROR_GPU_IS_LOST: ErrorInfo(
            "gpu-lost",
            N_("A GPU has fallen off the bus."),
            N_(
                "Look for Xid messages in the kernel log (power or heat is the usual cause), and restart "
                "the machine."
            ),
        ),
        library.NVML_ERROR_RESET_REQUIRED: ErrorInfo(
            "gpu-reset-required", N_("A GPU needs a reset."), _RELOAD_HINT
        ),
        library.NVML_ERROR_UNKNOWN: ErrorInfo(
            "driver-failed", N_("The NVIDIA driver reports an unknown error."), _RELOAD_HINT
        ),
    }
    return problems.get(code_of(library, error))


def failure_of(library: ModuleType, error: Exception) -> ErrorInfo:
    """Why the library could not be opened at all."""
    return problem_of(library, error) or ErrorInfo(
        "driver-failed", N_("Can't query the NVIDIA driver: {reason}", reason=error), _CPU_HINT
    )
