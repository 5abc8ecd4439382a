"""Where a replay stands: it plays, pauses, jumps, and runs faster or slower than what was recorded.

The clock is given with each call, in seconds; nothing here waits or draws.
"""

from dataclasses import dataclass

SPEEDS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)


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
