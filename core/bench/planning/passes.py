"""Which pass comes after which.

In every second repeat the lanes come in reverse order (ABBA), so that a machine that gets slower or faster
during a run favours nobody. All lanes are measured at one level before the next level begins. Only where the
other lanes' engines are stopped, a lane goes through all its levels first, since each change means loading.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from core.bench.planning.plan import BenchPlan, Isolation, LoadKind
from core.domain.bench import LoadLevel

SATURATION_GAIN = 0.05
"""A sweep ends where the next level brings less than this share more tokens a second."""

Group = tuple[str, ...]
"""Names of the lanes that are under load at the same time."""


@dataclass(frozen=True, slots=True)
class Step:
    """A pass to come."""

    repeat: int
    group: Group
    level: LoadLevel


def groups_of(plan: BenchPlan) -> tuple[Group, ...]:
    """Each lane alone, and all of them at once where their interference is asked for."""
    alone = tuple((lane.name,) for lane in plan.lanes)
    if plan.isolation is Isolation.TOGETHER:
        return (*alone, tuple(lane.name for lane in plan.lanes))
    return alone


def steps(plan: BenchPlan) -> Iterator[Step]:
    """All passes of a plan in order; of a sweep, all that it may come to."""
    groups = groups_of(plan)
    for repeat in range(plan.repeats):
        ordered = groups if repeat % 2 == 0 else groups[::-1]
        if plan.isolation is Isolation.STOPPED:
            yield from (Step(repeat, group, level) for group in ordered for level in plan.load.levels)
        else:
            yield from (Step(repeat, group, level) for level in plan.load.levels for group in ordered)


class SweepProgress:
    """Remembers what a sweep has reached, and says which steps are left out."""

    def __init__(self, plan: BenchPlan) -> None:
        self._is_sweep = plan.load.kind is LoadKind.SWEEP
        self._reached: dict[Group, list[tuple[int, float]]] = {}
        self._saturated: dict[Group, int] = {}

    def wanted(self, step: Step) -> bool:
        """False above the level at which the group's first repeat found no more to gain."""
        last = self._saturated.get(step.group)
        return last is None or (step.level.concurrency or 0) <= last

    def reached(self, step: Step, system_tok_per_s: float | None) -> None:
        """Take the result of a pass of the first repeat; None if nothing was answered, which ends it too."""
        if not self._is_sweep or step.repeat > 0 or step.level.concurrency is None:
            return
        levels = self._reached.setdefault(step.group, [])
        before = levels[-1][1] if levels else None
        levels.append((step.level.concurrency, system_tok_per_s or 0.0))
        if not system_tok_per_s or (before and system_tok_per_s < before * (1 + SATURATION_GAIN)):
            self._saturated[step.group] = step.level.concurrency


def saturation(speeds: Mapping[int, float]) -> int | None:
    """The lowest concurrency that reaches all but `SATURATION_GAIN` of the highest speed.

    `speeds` are tokens a second by concurrency; None with fewer than two levels, or without any speed.
    """
    if len(speeds) < 2 or not (highest := max(speeds.values())):
        return None
    return min(c for c, speed in speeds.items() if speed >= highest * (1 - SATURATION_GAIN))
