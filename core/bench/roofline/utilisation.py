"""How close the lanes of a run came to their roofline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.bench.results.result import BenchResult
from core.bench.roofline.bandwidth import Bandwidth
from core.bench.roofline.roofline import Roofline, roofline
from core.domain.bench import BenchPass, LaneFacts
from core.i18n import N_, Message


@dataclass(frozen=True, slots=True, kw_only=True)
class BandwidthUtilisation:
    """How close a lane came to its roofline, answering one request at a time."""

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
