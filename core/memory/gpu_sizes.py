"""Memory of common NVIDIA GPUs, for predictions about a GPU that is not here.

`total_bytes` is what `nvidia-smi` shows as the card's memory, a little less than its name says where error
correction takes a share.
"""

from dataclasses import dataclass

_MIB = 2**20

DRIVER_RESERVED_BYTES = 600 * _MIB
"""Kept by the driver for itself, roughly; NVML gives the exact figure of a GPU that is here."""


@dataclass(frozen=True, slots=True)
class GpuSize:
    """A kind of GPU by its memory."""

    name: str
    total_bytes: int

    @property
    def free_bytes(self) -> int:
        """Free memory of an empty GPU."""
        return self.total_bytes - DRIVER_RESERVED_BYTES


COMMON_GPUS = (
    GpuSize("8 GB · RTX 4060", 8_188 * _MIB),
    GpuSize("12 GB · RTX 4070", 12_282 * _MIB),
    GpuSize("16 GB · RTX 4080, T4, V100", 16_376 * _MIB),
    GpuSize("24 GB · RTX 4090, A10, L4", 24_564 * _MIB),
    GpuSize("32 GB · RTX 5090", 32_607 * _MIB),
    GpuSize("40 GB · A100", 40_960 * _MIB),
    GpuSize("48 GB · L40S, A6000", 49_140 * _MIB),
    GpuSize("80 GB · A100, H100", 81_559 * _MIB),
    GpuSize("141 GB · H200", 143_771 * _MIB),
)
