"""How fast one request could be decoded at best: each token reads all weights from memory once.

Theory, not measurement: it leaves out the KV cache and all arithmetic, and no engine reaches it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_GB = 10**9

_BANDWIDTHS: Sequence[tuple[str, int]] = (
    (r"B200", 8000 * _GB),
    (r"H200", 4800 * _GB),
    (r"H100 NVL", 3900 * _GB),
    (r"H100 PCIe", 2000 * _GB),
    (r"H100", 3350 * _GB),
    (r"A100.*PCIe.*80GB|A100 80GB PCIe", 1935 * _GB),
    (r"A100.*80GB", 2039 * _GB),
    (r"A100", 1555 * _GB),
    (r"A6000", 768 * _GB),
    (r"L40S?\b", 864 * _GB),
    (r"A10G?\b", 600 * _GB),
    (r"L4\b", 300 * _GB),
    (r"V100", 900 * _GB),
    (r"\bT4\b", 320 * _GB),
    (r"RTX 5090", 1792 * _GB),
    (r"RTX 4090", 1008 * _GB),
    (r"RTX 4080", 717 * _GB),
    (r"RTX 4070", 504 * _GB),
    (r"RTX 4060", 272 * _GB),
    (r"RTX 3090", 936 * _GB),
)
"""Memory bandwidth in bytes a second by NVIDIA's data sheets; the first pattern that fits counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """The limit that memory bandwidth sets to decoding one request."""

    weight_bytes: int
    bandwidth_bytes_per_s: float

    @property
    def decode_tok_per_s(self) -> float:
        return self.bandwidth_bytes_per_s / self.weight_bytes

    def share(self, decode_tok_per_s: float) -> float:
        """How much of the limit a measured decode speed reaches; 1 would be all of it."""
        return decode_tok_per_s / self.decode_tok_per_s


def bandwidth_of(gpu_name: str) -> int | None:
    """Bytes a second of a GPU by its NVML name; None for unknown ones, and for slices (MIG) of one."""
    if "MIG" in gpu_name:
        return None
    return next((value for pattern, value in _BANDWIDTHS if re.search(pattern, gpu_name, re.I)), None)


def roofline(
    weight_bytes: int | None, gpu_names: Sequence[str], *, bandwidth_bytes_per_s: float | None = None
) -> Roofline | None:
    """The limit for weights that are spread over these GPUs; None where a figure is missing.

    `bandwidth_bytes_per_s` of one GPU, if it was measured, is used instead of the data sheet's.
    """
    if not weight_bytes or not gpu_names:
        return None
    known = [bandwidth_bytes_per_s or bandwidth_of(name) for name in gpu_names]
    bandwidths = [bandwidth for bandwidth in known if bandwidth is not None]
    if len(bandwidths) < len(known):
        return None
    return Roofline(weight_bytes=weight_bytes, bandwidth_bytes_per_s=sum(bandwidths))
