"""A recording replayed: the state of a turn's lanes, a load test or a walk at any moment, by its timestamps.

`Programme` is a recording as a show of about a minute: some of its turns, a load test and the walk, one after
another. A `Playback` plays, pauses, jumps, and runs faster or slower than what was recorded. The clock is
given with each call, in seconds; nothing here waits or draws.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil
from typing import TypeAlias

from core.domain.runs import BenchPass, BenchRecord, BenchRequest, RunState
from core.domain.timing import Timing
from core.domain.turns import Phase, RequestRecord, TurnRecord
from core.domain.walk import WalkRun
from core.errors import InputError
from core.i18n import N_
from core.replay.recording import Recording

_NS = 1e-9
SPEED_WINDOW_S = 1.0

HOLD_S = 2.0
"""How long the end of each part stays, so that its figures can be read."""
TURNS_S, LOAD_S, WALK_S = 24.0, 14.0, 18.0
"""What turns, load test and walk may take, the holds apart."""

Source: TypeAlias = TurnRecord | BenchRecord | WalkRun
SPEEDS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkFrame:
    """The walk at one moment."""

    done: int
    """Steps that were over; skipped ones take no time."""
    elapsed_s: float
    """Since the step under way began; 0 once all are done."""


class WalkTimeline:
    """The steps one after another, each as long as it took."""

    def __init__(self, run: WalkRun) -> None:
        """Raises InputError for a walk without a step."""
        if not run.steps:
            raise InputError(
                N_("No step of this walk was taken, so there is nothing to replay."),
                code="nothing-to-replay",
            )
        self._ends_s = list(accumulate(step.duration_s for step in run.steps))
        self.duration_s = self._ends_s[-1]

    def frame(self, at_s: float) -> WalkFrame:
        """The walk that many seconds after its start."""
        done = bisect_right(self._ends_s, at_s)
        if done == len(self._ends_s):
            return WalkFrame(done=done, elapsed_s=0.0)
        began_s = self._ends_s[done - 1] if done else 0.0
        return WalkFrame(done=done, elapsed_s=max(0.0, at_s - began_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneLoad:
    """One lane at one moment. Warm-up requests count as in flight only."""

    lane: str
    in_flight: int
    answered: int
    """Measured requests that were answered to their end by then."""
    failed: int
    output_tokens: int
    """Of measured requests. Of an answer whose chunks' tokens are unknown, all count at its end."""
    tok_per_s: float
    """Output tokens within the last `SPEED_WINDOW_S`, by that time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFrame:
    """The run at one moment."""

    current: BenchPass | None
    """The pass that was being measured; None before, between and after passes, as while warming up."""
    passes_done: int
    lanes: tuple[LaneLoad, ...]


class LoadTimeline:
    """A run from its first request to the end of its last one, engine starts in between included."""

    def __init__(self, record: BenchRecord) -> None:
        """Raises InputError for a run that goes on, and for one that sent nothing."""
        sent = [(request, request.timing) for request in record.requests if request.timing]
        if record.run.state is RunState.RUNNING:
            raise InputError(
                N_("The run is still going on."),
                hint=N_("Replay it when it has finished."),
                code="nothing-to-replay",
            )
        if not sent:
            raise InputError(
                N_("Nothing was sent in this run, so there is nothing to replay."), code="nothing-to-replay"
            )
        start_ns = min(timing.sent_ns for _, timing in sent)
        self.passes = tuple(sorted(record.passes, key=lambda one: one.start_ns))
        self._bounds_s = [
            ((one.start_ns - start_ns) * _NS, ((one.end_ns or one.start_ns) - start_ns) * _NS)
            for one in self.passes
        ]
        names = dict.fromkeys(facts.lane.name for facts in record.run.lanes)
        self._lanes = tuple(
            _LoadLane(name, [(request, timing) for request, timing in sent if request.lane == name], start_ns)
            for name in names
        )
        self.duration_s = max((ended_ns(timing) - start_ns) * _NS for _, timing in sent)

    def frame(self, at_s: float) -> LoadFrame:
        """The run that many seconds after its first request."""
        under_way = [
            one
            for one, (start_s, end_s) in zip(self.passes, self._bounds_s, strict=True)
            if start_s <= at_s < end_s
        ]
        return LoadFrame(
            current=under_way[0] if under_way else None,
            passes_done=sum(end_s <= at_s for _, end_s in self._bounds_s),
            lanes=tuple(lane.load(at_s) for lane in self._lanes),
        )


class _LoadLane:
    """One lane's requests as sorted moments, so that each frame takes a few look-ups."""

    def __init__(self, name: str, requests: Sequence[tuple[BenchRequest, Timing]], start_ns: int) -> None:
        def since_start(moments_ns: list[int]) -> list[float]:
            return [(at_ns - start_ns) * _NS for at_ns in sorted(moments_ns)]

        measured = [(request, timing) for request, timing in requests if not request.warmup]
        self._name = name
        self._sent_s = since_start([timing.sent_ns for _, timing in requests])
        self._ended_s = since_start([ended_ns(timing) for _, timing in requests])
        self._answered_s = since_start([ended_ns(timing) for request, timing in measured if request.ok])
        self._failed_s = since_start([ended_ns(timing) for request, timing in measured if request.failed])
        tokens = sorted(moment for _, timing in measured for moment in _token_moments(timing))
        self._tokens_s = [(at_ns - start_ns) * _NS for at_ns, _ in tokens]
        self._tokens = list(accumulate((count for _, count in tokens), initial=0))

    def load(self, at_s: float) -> LaneLoad:
        tokens = self._tokens[bisect_right(self._tokens_s, at_s)]
        before = self._tokens[bisect_left(self._tokens_s, at_s - SPEED_WINDOW_S)]
        return LaneLoad(
            lane=self._name,
            in_flight=bisect_right(self._sent_s, at_s) - bisect_right(self._ended_s, at_s),
            answered=bisect_right(self._answered_s, at_s),
            failed=bisect_right(self._failed_s, at_s),
            output_tokens=tokens,
            tok_per_s=(tokens - before) / SPEED_WINDOW_S,
        )


def _token_moments(timing: Timing) -> list[tuple[int, int]]:
    """Return when how many output tokens arrived."""
    if timing.chunk_tokens is not None:
        return list(zip(timing.chunk_ns, timing.chunk_tokens, strict=True))
    if timing.output_tokens is not None and timing.output_tokens == len(timing.chunk_ns):
        return [(at_ns, 1) for at_ns in timing.chunk_ns]
    return [(ended_ns(timing), timing.output_tokens or 0)]


Timeline: TypeAlias = TurnTimeline | LoadTimeline | WalkTimeline


@dataclass(frozen=True, slots=True)
class Part:
    """One entry of a show."""

    source: Source
    timeline: Timeline
    speed: float
    """How much faster than it was recorded."""

    @property
    def length_s(self) -> float:
        """On the show's clock, with the hold at its end."""
        return self.timeline.duration_s / self.speed + HOLD_S


@dataclass(frozen=True, slots=True)
class Place:
    """A moment of a show: the part's number, and the moment of what was recorded."""

    part: int
    at_s: float


class Programme:
    """The parts of a show and when each is on."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self.duration_s = sum(part.length_s for part in self.parts)

    def place(self, at_s: float) -> Place:
        """Return what is on that many seconds after the start; after the end the last part's end."""
        left_s = at_s
        for number, part in enumerate(self.parts):
            if left_s < part.length_s or number == len(self.parts) - 1:
                return Place(number, min(left_s * part.speed, part.timeline.duration_s))
            left_s -= part.length_s
        return Place(0, 0.0)


def programme(recording: Recording) -> Programme:
    """The first turns as they were, then the first load test and the walk, faster if they took long."""
    parts: list[Part] = []
    left_s = TURNS_S
    for turn in recording.turns:
        timeline = _timeline(turn)
        if timeline is None or (parts and timeline.duration_s > left_s):
            continue
        parts.append(Part(turn, timeline, 1.0))
        left_s -= timeline.duration_s
    for source, most_s in ((next(iter(recording.runs), None), LOAD_S), (recording.walk, WALK_S)):
        timeline = _timeline(source) if source is not None else None
        if source is not None and timeline is not None:
            parts.append(Part(source, timeline, float(max(1, ceil(timeline.duration_s / most_s)))))
    return Programme(parts)


def _timeline(source: Source) -> Timeline | None:
    """None for what can't be replayed."""
    try:
        match source:
            case TurnRecord():
                return TurnTimeline(source)
            case BenchRecord():
                return LoadTimeline(source)
            case WalkRun():
                return WalkTimeline(source)
    except InputError:
        return None


@dataclass(slots=True)
class Playback:
    """One viewer's replay of something that took `duration_s`. For one thread."""

    duration_s: float
    speed: float = 1.0
    _position_s: float = 0.0
    """Where it stood at `_since_s`, or stands while it is paused."""
    _since_s: float | None = None
    """Since when it plays; None while it is paused."""

    def position_s(self, now_s: float) -> float:
        """Seconds of the recording that have been played, at most all of it."""
        if self._since_s is None:
            return self._position_s
        return min(self.duration_s, self._position_s + (now_s - self._since_s) * self.speed)

    def is_playing(self, now_s: float) -> bool:
        return self._since_s is not None and not self.has_ended(now_s)

    def has_ended(self, now_s: float) -> bool:
        return self.position_s(now_s) >= self.duration_s

    def play(self, now_s: float) -> None:
        """Go on; from the beginning if the end was reached."""
        if self.has_ended(now_s):
            self._position_s = 0.0
        elif self._since_s is not None:
            return
        self._since_s = now_s

    def pause(self, now_s: float) -> None:
        self._position_s, self._since_s = self.position_s(now_s), None

    def seek(self, position_s: float, now_s: float) -> None:
        """Jump there; a replay that plays goes on from there."""
        is_playing = self.is_playing(now_s)
        self._position_s = min(max(position_s, 0.0), self.duration_s)
        self._since_s = now_s if is_playing else None

    def set_speed(self, speed: float, now_s: float) -> None:
        """From now on; what was played before stays as it is."""
        if self._since_s is not None:
            self._position_s, self._since_s = self.position_s(now_s), now_s
        self.speed = speed
