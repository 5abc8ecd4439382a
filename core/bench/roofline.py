"""The fastest decoding of one request that memory bandwidth allows, and how close the lanes of a run came to
it.

Each token reads all weights from memory once. The roofline is theory, not measurement: it leaves out the KV
cache and all arithmetic, and no engine reaches it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.bench.bandwidth import Bandwidth
from core.bench.results.result import BenchResult
from core.domain.bench import BenchPass, LaneFacts
from core.i18n import N_, Message

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
        """Return how much of the limit a measured decode speed reaches; 1 would be all of it."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class BandwidthUtilisation:
    """The share of its roofline that a lane reached, answering one request at a time."""

    lane: str
    decode_tok_per_s: float
    """Mean of the requests."""
    n: int
    limit: Roofline
    gpu_names: tuple[str, ...]
    """Of the GPUs that computed a request: with replicas those of one of them."""
    measured: Bandwidth | None
    """What the limit was computed with; None if with the GPU's data sheet."""

    @property
    def share(self) -> float:
        return self.limit.share(self.decode_tok_per_s)

    @property
    def bandwidth_source(self) -> Message:
        """Where the limit's bandwidth is from, in words."""
        return N_("measured with a copy") if self.measured else N_("from the data sheet")


def utilisations(
    result: BenchResult, passes: Sequence[BenchPass], measured: Callable[[str], Bandwidth | None]
) -> tuple[BandwidthUtilisation, ...]:
    """The lanes whose limit is known, from their points alone at concurrency 1.

    `measured` tells a GPU's bandwidth by its name; where it has none, the data sheet's counts.
    """
    shares = []
    facts = {lane_facts.lane.name: lane_facts for lane_facts in result.run.lanes}
    for point in result.points:
        if point.level.concurrency != 1 or point.is_together or point.decode_tok_per_s is None:
            continue
        names = _gpu_names(facts[point.lane], passes)
        known = [measured(name) for name in names]
        bandwidth = known[0] if known and len(set(names)) == 1 else None
        limit = roofline(
            facts[point.lane].weight_bytes,
            names,
            bandwidth_bytes_per_s=bandwidth.bytes_per_s if bandwidth else None,
        )
        if limit is not None:
            shares.append(
                BandwidthUtilisation(
                    lane=point.lane,
                    decode_tok_per_s=point.decode_tok_per_s.mean,
                    n=point.decode_tok_per_s.n,
                    limit=limit,
                    gpu_names=tuple(names),
                    measured=bandwidth,
                )
            )
    return tuple(shares)


def _gpu_names(facts: LaneFacts, passes: Sequence[BenchPass]) -> list[str]:
    """The names of the GPUs that compute one request of a lane; none for a CPU or an endpoint."""
    kind, _, indices = (facts.device or "").partition(":")
    if kind != "cuda":
        return []
    seen = {gpu.index: gpu.name for each in passes if facts.lane.name in each.lanes for gpu in each.gpus}
    wanted = [int(index) for index in indices.split(",")]
    wanted = wanted[: len(wanted) // facts.lane.settings.replicas]
    return [seen[index] for index in wanted] if all(index in seen for index in wanted) else []
