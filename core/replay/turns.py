"""Where each lane of a recorded turn stood at any moment, from the timestamps of its chunks."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from core.domain.timing import Timing
from core.domain.turns import Phase, RequestRecord, TurnRecord
from core.errors import InputError
from core.i18n import N_

_NS = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneFrame:
    """One lane at one moment."""

    phase: Phase
    """QUEUED until it was sent, SENT until its first text, STREAMING, then DONE."""
    content_chars: int = 0
    """How much of the answer's text had arrived."""
    reasoning_chars: int = 0
    since_sent_s: float | None = None
    """Until now, or until the stream ended; None before sending, and of what was never sent."""


class TurnTimeline:
    """The turn from its first request's sending to the end of its last stream."""

    def __init__(self, turn: TurnRecord) -> None:
        """Raises InputError for a turn that goes on, and for one of which nothing was sent."""
        timings = [request.timing for request in turn.requests if request.timing]
        if not turn.done:
            raise InputError(
                N_("The turn is still running."),
                hint=N_("Replay it when all answers are complete."),
                code="nothing-to-replay",
            )
        if not timings:
            raise InputError(
                N_("Nothing was sent in this turn, so there is nothing to replay."),
                code="nothing-to-replay",
            )
        start_ns = min(timing.sent_ns for timing in timings)
        self._lanes = tuple(_Lane(request, start_ns) for request in turn.requests)
        self.duration_s = max(lane.end_s for lane in self._lanes)

    def frame(self, at_s: float) -> tuple[LaneFrame, ...]:
        """Every lane that many seconds after the start, in the turn's order."""
        return tuple(lane.frame(at_s) for lane in self._lanes)


class _Lane:
    """One request on the turn's clock."""

    def __init__(self, request: RequestRecord, start_ns: int) -> None:
        timing = request.timing
        self._sent_s: float | None = None
        self.end_s = 0.0
        self._whole = (len(request.text), len(request.reasoning))
        self._chunks_s: Sequence[float] = ()
        self._content: Sequence[int] = (0,)
        self._reasoning: Sequence[int] = (0,)
        if timing is None:
            return
        self._sent_s = (timing.sent_ns - start_ns) * _NS
        self.end_s = (ended_ns(timing) - start_ns) * _NS
        self._chunks_s = [(at_ns - start_ns) * _NS for at_ns in timing.chunk_ns]
        self._content = list(accumulate(timing.content_chars, initial=0))
        reasoning = timing.reasoning_chars or (0,) * len(timing.chunk_ns)
        self._reasoning = list(accumulate(reasoning, initial=0))

    def frame(self, at_s: float) -> LaneFrame:
        if self._sent_s is None or at_s >= self.end_s:
            # The record's own texts: they may end with more than the chunks, as when the server said so.
            content, reasoning = self._whole
            since_s = None if self._sent_s is None else self.end_s - self._sent_s
            return LaneFrame(
                phase=Phase.DONE, content_chars=content, reasoning_chars=reasoning, since_sent_s=since_s
            )
        if at_s < self._sent_s:
            return LaneFrame(phase=Phase.QUEUED)
        arrived = bisect_right(self._chunks_s, at_s)
        return LaneFrame(
            phase=Phase.STREAMING if arrived else Phase.SENT,
            content_chars=self._content[arrived],
            reasoning_chars=self._reasoning[arrived],
            since_sent_s=at_s - self._sent_s,
        )


def ended_ns(timing: Timing) -> int:
    """The last timestamp of a request: the end of its stream, where that was recorded."""
    return max(timing.sent_ns, timing.ended_ns or 0, timing.first_event_ns or 0, *timing.chunk_ns)
