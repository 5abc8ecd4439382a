"""A lane's figures: speed, memory and energy of a benchmark run, right answers of a quality run.

Two lanes are compared by their speed where both did the same work at the same load.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from core.bench.plan import Load, Workload
from core.bench.results.comparison import ComparedPoint
from core.bench.results.points import Point
from core.bench.results.result import BenchResult
from core.bench.statistics import Interval, Ratio, mean_ratio
from core.domain.runs import BenchRecord, LoadLevel, QualityRecord
from core.quality.results import Outcome
from core.quality.results import results as quality_results
from core.quality.verdict import verdicts


@dataclass(frozen=True, slots=True)
class Counted:
    """A figure, and how many values it is made of."""

    value: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSpeed:
    """The speed of a lane that was alone under load; None where the run leaves a figure undefined."""

    lane: str
    run_id: str
    measured_at: datetime
    workload: Workload
    load: Load
    seed: int
    level: LoadLevel
    """The lightest load, which TTFT, decode speed and energy belong to."""
    ttft_samples_s: tuple[float, ...]
    tpot_samples_s: tuple[float, ...]
    ttft_p50_s: Counted | None
    """n requests."""
    decode_p50_tok_per_s: Counted | None
    """n requests."""
    best_point: Point | None
    """The load with the best system throughput."""
    peak_memory_bytes: Counted | None
    """n passes, over all loads."""
    memory_is_gpu: bool
    """Otherwise the host's memory, of an engine that has none on a GPU."""
    energy_j_per_token: Counted | None
    """n requests."""
    weight_bytes: int | None
    """On disk, in the form that the lane loads."""

    @property
    def system_tok_per_s(self) -> Counted | None:
        """n repeats."""
        point = self.best_point
        if point is None or point.system_tok_per_s is None:
            return None
        return Counted(point.system_tok_per_s, point.repeats)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneQualityFigure:
    """A lane's figures in a quality run."""

    run_id: str
    measured_at: datetime
    right: int | None
    """Tasks answered correctly; None for a run without tasks."""
    asked: int | None
    interval: Interval | None
    """Of the share of right answers."""
    sentence: str
    """The run's verdict on the lane, in the reader's language when it is drawn."""


def lane_speed(record: BenchRecord, result: BenchResult, lane: str) -> LaneSpeed | None:
    """The figures of a lane; None where it answered nothing alone."""
    points = [
        point for point in result.points if point.lane == lane and not point.is_together and point.requests.ok
    ]
    if not points:
        return None
    lightest = min(points, key=lambda point: point.level.value)
    samples = _samples(record, lightest)
    fast = [point for point in points if point.system_tok_per_s is not None]
    facts = next((facts for facts in record.run.lanes if facts.lane.name == lane), None)
    memory, is_gpu = _peak_memory(points)
    return LaneSpeed(
        lane=lane,
        run_id=record.run.id,
        measured_at=record.run.created_at,
        workload=result.plan.workload,
        load=result.plan.load,
        seed=result.plan.seed,
        level=lightest.level,
        ttft_samples_s=samples[0],
        tpot_samples_s=samples[1],
        ttft_p50_s=Counted(lightest.ttft_s.p50, lightest.ttft_s.n) if lightest.ttft_s else None,
        decode_p50_tok_per_s=Counted(lightest.decode_tok_per_s.p50, lightest.decode_tok_per_s.n)
        if lightest.decode_tok_per_s
        else None,
        best_point=max(fast, key=lambda point: point.system_tok_per_s or 0.0) if fast else None,
        peak_memory_bytes=memory,
        memory_is_gpu=is_gpu,
        energy_j_per_token=Counted(lightest.energy_j_per_token, lightest.requests.ok)
        if lightest.energy_j_per_token is not None
        else None,
        weight_bytes=facts.weight_bytes if facts else None,
    )


def quality_figures(record: QualityRecord) -> dict[str, LaneQualityFigure]:
    """All lanes of a run at once, since grading its answers takes most of the time."""
    result = quality_results(record)
    sentences = {verdict.lane: verdict.sentence for verdict in verdicts(result)}
    return {
        lane.name: LaneQualityFigure(
            run_id=record.run.id,
            measured_at=record.run.created_at,
            right=lane.tasks.outcomes[Outcome.RIGHT] if lane.tasks else None,
            asked=lane.tasks.asked if lane.tasks else None,
            interval=lane.tasks.interval if lane.tasks else None,
            sentence=sentences[lane.name],
        )
        for lane in result.lanes
    }


def comparable(one: LaneSpeed, other: LaneSpeed) -> bool:
    """Whether both did the same work at the same load."""
    return (one.workload, one.level) == (other.workload, other.level)


def ttft_ratio(lane: LaneSpeed, baseline: LaneSpeed) -> Ratio | None:
    """The lane's mean TTFT over the baseline's: below 1 is faster. None if they can't be compared."""
    if not comparable(lane, baseline):
        return None
    return mean_ratio(lane.ttft_samples_s, baseline.ttft_samples_s, seed=lane.seed)


def decode_ratio(lane: LaneSpeed, baseline: LaneSpeed) -> Ratio | None:
    """The baseline's mean TPOT over the lane's: above 1 is faster. None if they can't be compared."""
    if not comparable(lane, baseline):
        return None
    return mean_ratio(baseline.tpot_samples_s, lane.tpot_samples_s, seed=lane.seed)


def throughput_ratio(lane: LaneSpeed, baseline: LaneSpeed) -> Ratio | None:
    """The lane's best throughput over the baseline's; an interval needs several repeats of both.

    None if they can't be compared, or had other loads to be best at.
    """
    points = (baseline.best_point, lane.best_point)
    if not comparable(lane, baseline) or lane.load != baseline.load or points[0] is None or points[1] is None:
        return None
    pair = ComparedPoint(
        lanes=(baseline.lane, lane.lane), level=points[1].level, together=False, points=points
    )
    change = pair.change_ratios("system_tok_per_s", 0)[1]
    if change is None:
        return None
    interval = pair.change_intervals("system_tok_per_s", 0)[1]
    return Ratio(
        value=1 + change,
        interval=Interval(1 + interval.low, 1 + interval.high) if interval else None,
        n=min(point.repeats for point in points if point),
    )


def _samples(record: BenchRecord, point: Point) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """TTFT and TPOT of each answered request at a point, in seconds."""
    passes = {
        bench_pass.number
        for bench_pass in record.passes
        if bench_pass.lanes == point.together and bench_pass.level == point.level
    }
    timings = [
        request.timing
        for request in record.requests
        if request.pass_number in passes
        and request.lane == point.lane
        and not request.warmup
        and request.ok
        and request.timing
    ]
    ttft_s = (timing.ttft_s for timing in timings)
    tpot_s = (timing.tpot_s for timing in timings)
    return (
        tuple(value for value in ttft_s if value is not None),
        tuple(value for value in tpot_s if value is not None),
    )


def _peak_memory(points: Sequence[Point]) -> tuple[Counted | None, bool]:
    """The peak over all loads, and whether it is of GPU memory."""
    for is_gpu in (True, False):
        known = [
            (size, point.repeats)
            for point in points
            if (size := point.peak_gpu_bytes if is_gpu else point.peak_resident_bytes)
        ]
        if known:
            sizes, repeats = zip(*known, strict=True)
            return Counted(max(sizes), sum(repeats)), is_gpu
    return None, False
