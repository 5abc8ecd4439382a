"""Where a recorded walk stood at any moment: which of its steps were taken, and which was under way."""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

from core.domain.walk import WalkRun
from core.errors import InputError
from core.i18n import N_


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
