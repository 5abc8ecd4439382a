"""Notes that belong to a lane's figures before they are compared: on how its answers ended, and how long they
waited.

Answers may be empty, cut or of another length. Requests wait here for their turn to be sent, and in the
engine's queue. Between the two lies what nobody tells: the network, and what a server does before its
engine's queue.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from core.bench.plan import Workload
from core.domain.fairness import LMDEPLOY_KINDS
from core.domain.runs import BenchPass, BenchRequest, LoadLevel
from core.domain.specs import LaneSpec
from core.domain.turns import FinishReason
from core.i18n import N_, Message, Text

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
    """Return what must be known of a lane's queue time, or why it is unknown although its server counts."""
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


class _Observation(NamedTuple):
    text: Message
    requests: int
    """That it is true of."""
    lengths: str = ""
    asked: str = ""


def answer_notes(requests: Sequence[BenchRequest], workload: Workload) -> tuple[Message, ...]:
    """Notes on the answered requests of a lane at a load."""
    answered = [request for request in requests if request.ok]
    return tuple(
        found.text.filled(n=found.requests, all=len(answered), lengths=found.lengths, asked=found.asked)
        for found in (*_ends(answered), *_lengths(answered, workload))
        if found.requests
    )


def _ends(answered: Sequence[BenchRequest]) -> Iterator[_Observation]:
    yield _Observation(
        N_("{n} of {all} answers have no text; they make requests/s look better than it is."),
        sum(not request.has_text for request in answered),
    )
    for reason, text in (
        (None, N_("{n} of {all} answers ended without a reason, so they may be cut short.")),
        (FinishReason.CONTENT_FILTER, N_("{n} of {all} answers were cut by the server's content filter.")),
        (FinishReason.TOOL_CALLS, N_("{n} of {all} answers ended with a tool call.")),
    ):
        yield _Observation(text, sum(request.finish_reason is reason for request in answered))


def _lengths(answered: Sequence[BenchRequest], workload: Workload) -> Iterator[_Observation]:
    timings = [request.timing for request in answered if request.timing]
    lengths = [timing.output_tokens for timing in timings if timing.output_tokens is not None]
    asked = workload.output_tokens
    if workload.fixed_output:
        wrong = [length for length in lengths if length != asked]
        text = N_("{n} of {all} answers are {lengths} tokens long instead of {asked}.")
    else:
        wrong = [length for length in lengths if length > asked]
        text = N_("{n} of {all} answers are {lengths} tokens long, though at most {asked} were asked for.")
    yield _Observation(text, len(wrong), _range(wrong), f"{asked:,}")
    yield _Observation(
        N_("{n} of {all} answers came in one burst; their decode speed is unknown."),
        sum(timing.is_burst for timing in timings),
    )
    yield _Observation(
        N_("The server counted no tokens for {n} of {all} answers."), len(answered) - len(lengths)
    )


def _range(lengths: Sequence[int]) -> str:
    if not lengths:
        return ""
    low, high = min(lengths), max(lengths)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"
