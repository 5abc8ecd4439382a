"""The parts of a running engine's memory, each with the source of its size.

Only what is known is named: a part without a source is None, and what the known parts leave over is "the
rest", whatever it holds. Pure functions of figures that others read.
"""

from dataclasses import dataclass
from enum import StrEnum

from core.i18n import N_, Text
from core.memory.kv_cache import KvLog
from core.telemetry.samples import MemorySource


class Part(StrEnum):
    BASELINE = "baseline"
    WEIGHTS = "weights"
    KV_IN_USE = "KV in use"
    KV_FREE = "KV reserved, not in use"
    KV_RESERVED = "KV reserved"
    """Both of the above, where their border is not known."""
    REST = "other"


@dataclass(frozen=True, slots=True)
class SplitPart:
    """A part's size on each GPU, or in host memory; None with the reason as its source."""

    part: Part
    size_bytes: int | None
    source: Text


TOTAL_SOURCES = {
    MemorySource.PROCESSES: N_("NVML, the engine's processes"),
    MemorySource.DIFFERENCE: N_("NVML, growth of the GPU's memory since before the engine's start"),
    None: N_("resident memory of the engine's processes"),
}


def split_memory(
    total_bytes: int | None,
    *,
    weight_bytes: int | None,
    free_before_bytes: int | None = None,
    kv: KvLog | None = None,
    kv_used_ratio: float | None = None,
) -> tuple[SplitPart, ...]:
    """The parts of an engine's memory; they add up to `total_bytes` where that is known.

    Args:
        total_bytes: what the engine holds now.
        weight_bytes: its weights as it loads them.
        free_before_bytes: free memory of its GPU just before its start.
        kv: what its log says of the KV cache.
        kv_used_ratio: share of the KV cache that holds tokens now.
    """
    parts = [
        _baseline(weight_bytes, free_before_bytes, kv),
        SplitPart(Part.WEIGHTS, weight_bytes, N_("checkpoint files")),
        *_kv_parts(kv, kv_used_ratio),
    ]
    known = sum(part.size_bytes for part in parts if part.size_bytes is not None)
    rest = None if total_bytes is None else max(0, total_bytes - known)
    return (*parts, SplitPart(Part.REST, rest, N_("total minus the parts above")))


def _baseline(weight_bytes: int | None, free_before_bytes: int | None, kv: KvLog | None) -> SplitPart:
    """Return what the process took before and while it loaded, besides the weights: CUDA's context and
    libraries.
    """
    if weight_bytes is None or free_before_bytes is None or kv is None:
        return SplitPart(
            Part.BASELINE,
            None,
            N_("not available: needs the GPU's memory before the start, and the engine's log"),
        )
    taken = free_before_bytes - kv.free_bytes - weight_bytes
    return SplitPart(
        Part.BASELINE, max(0, taken), N_("NVML before the start, minus the log's free memory and the weights")
    )


def _kv_parts(kv: KvLog | None, used_ratio: float | None) -> tuple[SplitPart, ...]:
    if kv is None:
        return (SplitPart(Part.KV_RESERVED, None, N_("not reported by the engine")),)
    if used_ratio is None:
        return (SplitPart(Part.KV_RESERVED, kv.reserved_bytes, N_("engine's log")),)
    used = int(min(1.0, max(0.0, used_ratio)) * kv.reserved_bytes)
    return (
        SplitPart(Part.KV_IN_USE, used, N_("engine's /metrics")),
        SplitPart(Part.KV_FREE, kv.reserved_bytes - used, N_("engine's log, minus what is in use")),
    )
