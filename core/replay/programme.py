"""A recording as a show of about a minute: some of its turns, a load test and the walk, one after another.

A `Playback` plays, pauses, jumps, and runs faster or slower than what was recorded. The clock is given with
each call, in seconds; nothing here waits or draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TypeAlias

from core.domain.runs import BenchRecord
from core.domain.turns import TurnRecord
from core.domain.walk import WalkRun
from core.errors import InputError
from core.replay.recording import Recording
from core.replay.timelines import LoadTimeline, TurnTimeline, WalkTimeline

HOLD_S = 2.0
"""How long the end of each part stays, so that its figures can be read."""
TURNS_S, LOAD_S, WALK_S = 24.0, 14.0, 18.0
"""What turns, load test and walk may take, the holds apart."""

Source: TypeAlias = TurnRecord | BenchRecord | WalkRun
Timeline: TypeAlias = TurnTimeline | LoadTimeline | WalkTimeline
SPEEDS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)


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
