"""What is known about GPUs: the words of GPU telemetry, without the library behind them.

A figure that can't be read is None, and a Gap beside it says why.
"""

from dataclasses import dataclass

from core.i18n import Text


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
        """Why the named figure is missing; None if nothing went wrong with it."""
        return next((gap.reason for gap in self.gaps if gap.figure == figure), None)
