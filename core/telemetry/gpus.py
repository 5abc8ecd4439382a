"""Facts about GPUs and their faults: the words of GPU telemetry, without the library behind them.

A figure that can't be read is None, and a Gap beside it says why. NVML's return codes are told apart by
whether they concern one figure, or the driver or a GPU as a whole; functions about them are given pynvml as
`library`, since `core.telemetry.nvml` alone imports it.
"""

from dataclasses import dataclass
from types import ModuleType

from core.domain.turns import ErrorInfo
from core.i18n import N_, Text

_RELOAD_HINT = N_("Restart the machine, or reload the nvidia kernel modules.")
_CPU_HINT = N_("Lanes on the CPU and endpoints work without it.")


@dataclass(frozen=True, slots=True)
class Gap:
    """A figure that could not be read, and the reason in words."""

    figure: str
    reason: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """One GPU, or one MIG instance of it, with its memory right now."""

    index: int
    """Position in NVML's order, which is PCI bus order; MIG instances are counted like GPUs."""
    name: str
    total_bytes: int | None
    """None on systems whose GPU has no memory of its own."""
    free_bytes: int | None
    used_bytes: int | None = None
    """Memory in use by all processes, without what the driver keeps for itself."""
    uuid: str | None = None
    """Names this GPU or MIG instance in `CUDA_VISIBLE_DEVICES`, whatever CUDA's own order is."""
    board: int = 0
    """NVML index of the physical GPU; instances of one board share its power and energy."""
    is_mig: bool = False
    compute_capability: tuple[int, int] | None = None
    gaps: tuple[Gap, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMemory:
    """GPU memory of one process, by the process ids of the driver's host."""

    pid: int
    used_bytes: int | None
    """None where the driver lists the process without a figure (Windows' WDDM)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """All sensors of one GPU at one moment."""

    index: int
    name: str
    board: int = 0
    is_mig: bool = False
    total_bytes: int | None = None
    free_bytes: int | None = None
    used_bytes: int | None = None
    utilisation_ratio: float | None = None
    """Share of the last sampling interval in which a kernel ran; says nothing about how full the GPU was."""
    power_w: float | None = None
    energy_j: float | None = None
    """A counter of the whole board since the driver was loaded; only differences mean something."""
    temperature_c: float | None = None
    sm_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    throttle_reasons: tuple[str, ...] | None = None
    """Why the clocks are held down; empty when they are not."""
    pcie_rx_bytes_per_s: float | None = None
    pcie_tx_bytes_per_s: float | None = None
    processes: tuple[ProcessMemory, ...] | None = None
    """Compute processes; None when the driver does not list them."""
    gaps: tuple[Gap, ...] = ()

    def reason(self, figure: str) -> str | None:
        """Return why the named figure is missing; None if nothing went wrong with it."""
        return next((gap.reason for gap in self.gaps if gap.figure == figure), None)


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
    """Return why a figure is missing, for the gap in a chart."""
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
    """Return why the library could not be opened at all."""
    return problem_of(library, error) or ErrorInfo(
        "driver-failed", N_("Can't query the NVIDIA driver: {reason}", reason=error), _CPU_HINT
    )
