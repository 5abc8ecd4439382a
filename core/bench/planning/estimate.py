"""A rough estimate of how long a plan takes, from speeds seen on common machines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from core.bench.planning.passes import Step, steps
from core.bench.planning.plan import BenchPlan
from core.domain.bench import BenchRequest, LoadLevel
from core.domain.specs import EngineKind, LaneSpec

_PASS_OVERHEAD_S = 0.3


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
    """How many measured requests a point of the lane will have, over all repeats."""
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
