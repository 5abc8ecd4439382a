"""The order of passes, and a rough estimate of how long a plan takes.

In every second repeat the lanes come in reverse order (ABBA), so that a machine that gets slower or faster
during a run favours nobody. All lanes are measured at one level before the next level begins. Only where the
other lanes' engines are stopped, a lane goes through all its levels first, since each change means loading.
The estimate goes by speeds seen on common machines.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from core.bench.planning.plan import BenchPlan, Isolation, LoadKind
from core.domain.bench import BenchRequest, LoadLevel
from core.domain.specs import EngineKind, LaneSpec

SATURATION_GAIN = 0.05
"""A sweep ends where the next level brings less than this share more tokens a second."""

Group = tuple[str, ...]
"""Names of the lanes that are under load at the same time."""
_PASS_OVERHEAD_S = 0.3


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """The expected times of a lane for one request at a time, in seconds."""

    ttft_s: float
    tpot_s: float


_GPU_SPEEDS = {
    EngineKind.TRANSFORMERS: Speed(ttft_s=0.05, tpot_s=0.035),
    EngineKind.TURBOMIND: Speed(ttft_s=0.01, tpot_s=0.004),
    EngineKind.AWQ: Speed(ttft_s=0.01, tpot_s=0.004),
    EngineKind.PYTORCH: Speed(ttft_s=0.03, tpot_s=0.010),
    EngineKind.ENDPOINT: Speed(ttft_s=0.1, tpot_s=0.015),
}
"""Of a model with about 2 billion parameters on a data-centre GPU."""
_CPU_SPEED = Speed(ttft_s=0.5, tpot_s=0.05)


def estimated_s(plan: BenchPlan, speeds: Mapping[str, Speed] | None = None) -> float:
    """Seconds that the plan takes, without starting engines; `speeds` by lane name where they are known.

    Engines are taken to serve several requests as fast as one, apart from those that serve one at a time.
    """
    return sum(estimated_step_s(plan, step, speeds) for step in steps(plan))


def estimated_step_s(plan: BenchPlan, step: Step, speeds: Mapping[str, Speed] | None = None) -> float:
    """Seconds that one pass takes, with its warm-up: as long as its slowest lane."""
    return max(
        _pass_s(plan, lane, step.level, request_s(plan, lane, speeds))
        for lane in plan.lanes
        if lane.name in step.group
    )


def assumed_speed(lane: LaneSpec) -> Speed:
    """The speed assumed for a lane without measurements."""
    return _CPU_SPEED if lane.settings.device == "cpu" else _GPU_SPEEDS[lane.kind]


def request_s(plan: BenchPlan, lane: LaneSpec, speeds: Mapping[str, Speed] | None = None) -> float:
    """Seconds that one request takes a lane that serves no other; `speeds` by lane name."""
    speed = (speeds or {}).get(lane.name) or assumed_speed(lane)
    return speed.ttft_s + plan.workload.output_tokens * speed.tpot_s


def speed_of(requests: Sequence[BenchRequest]) -> Speed | None:
    """The speed of a lane's earlier requests; None if they don't define it."""
    timings = [request.timing for request in requests if request.ok and request.timing]
    ttfts = [timing.ttft_s for timing in timings if timing.ttft_s is not None]
    tpots = [timing.tpot_s for timing in timings if timing.tpot_s is not None]
    return Speed(ttft_s=fmean(ttfts), tpot_s=fmean(tpots)) if ttfts and tpots else None


def expected_requests(
    plan: BenchPlan, lane: LaneSpec, level: LoadLevel, speeds: Mapping[str, Speed] | None = None
) -> int:
    """Return how many measured requests a point of the lane will have, over all repeats."""
    number = plan.requests_at(level)
    if number is None:
        seconds = plan.seconds or 0.0
        width = 1 if is_serial(lane) else level.concurrency or 1
        served = width / request_s(plan, lane, speeds)
        number = max(1, round(seconds * (level.rate_req_per_s or served)))
    return number * plan.repeats


def is_serial(lane: LaneSpec) -> bool:
    """Whether the lane's engine answers one request after another, however many are sent."""
    return lane.kind is EngineKind.TRANSFORMERS and not lane.settings.continuous_batching


def _pass_s(plan: BenchPlan, lane: LaneSpec, level: LoadLevel, request_s: float) -> float:
    width = 1 if is_serial(lane) else level.concurrency or plan.warmup or 1
    warmup_s = -(-plan.warmup // width) * request_s
    if plan.seconds is not None:
        waiting = (level.concurrency or 1) if is_serial(lane) else 1
        measured_s = plan.seconds + waiting * request_s
    else:
        number = plan.requests_at(level) or 1
        measured_s = -(-number // width) * request_s
        if level.rate_req_per_s is not None:
            busy_s = number * request_s if is_serial(lane) else request_s
            measured_s = max(number / level.rate_req_per_s + request_s, busy_s)
    return warmup_s + measured_s + _PASS_OVERHEAD_S
