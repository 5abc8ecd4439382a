"""How long requests waited before they were worked on: here, for their turn to be sent, and in the engine.

Between the two lies what nobody tells: the network, and what a server does before its engine's queue.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from core.domain.bench import BenchPass, LoadLevel
from core.domain.fairness import LMDEPLOY_KINDS
from core.domain.specs import LaneSpec
from core.i18n import N_, Text

BEFORE_SENDING = N_(
    "schedule → send, by LMDyno's own clock; open loads only, as closed ones have no schedule"
)
IN_THE_ENGINE = N_(
    "entry into the engine's queue → first scheduling: a mean, by the server's own counter at "
    "/metrics. Unknown "
    "without such a counter, and where it counted other requests than those of this run. LMDeploy's counter "
    "leaves out the wait for one of its max_batch_size slots"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueTime:
    """Time in the engine's queue: a mean, since the counter has nothing else."""

    mean_s: float
    n: int


def queue_time(lane: str, answered: Sequence[tuple[BenchPass, int]]) -> QueueTime | None:
    """The mean over a lane's passes, each with the number of its requests that were answered there.

    None unless the engine counted just these in every pass: with others in the sum, or some of ours missing,
    it is not theirs.
    """
    counted = _counted(lane, answered)
    if len(counted) != len(answered) or _is_mixed(counted):
        return None
    n = sum(requests for _, requests, _ in counted)
    return QueueTime(mean_s=sum(total_s for total_s, _, _ in counted) / n, n=n) if n else None


def queue_notes(
    lane: LaneSpec, level: LoadLevel, answered: Sequence[tuple[BenchPass, int]]
) -> tuple[Text, ...]:
    """What must be known of a lane's queue time, or why it is unknown although its server counts."""
    counted = _counted(lane.name, answered)
    if not counted:
        return ()
    if _is_mixed(counted):
        return (N_("queue time unknown: the engine also counted requests of others"),)
    places = lane.settings.requests_at_once
    if lane.kind in LMDEPLOY_KINDS and (level.concurrency or 0) > places:
        return (
            N_(
                "serves at most {n} requests at once: its queue time leaves out the wait for a slot",
                n=f"{places:,}",
            ),
        )
    return ()


def _counted(lane: str, answered: Sequence[tuple[BenchPass, int]]) -> list[tuple[float, int, int]]:
    """Seconds and requests by the engine's counter, and the requests answered, of the passes it told of."""
    return [
        (queue.total_s, queue.requests, ok)
        for each, ok in answered
        for queue in each.queues
        if queue.lane == lane
    ]


def _is_mixed(counted: Sequence[tuple[float, int, int]]) -> bool:
    return any(requests != ok for _, requests, ok in counted)
