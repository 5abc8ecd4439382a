"""The results of a run, from its facts: points and comparisons of lanes.

Nothing here is stored: it is computed from the timestamps whenever somebody looks, also while a run goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from core.bench.planning.passes import saturation
from core.bench.planning.plan import BenchPlan, LoadKind
from core.bench.results.definitions import DEFINITIONS, Definition, Tool
from core.bench.results.points import Part, Point, PointKey, point_of
from core.bench.statistics import Ratio, mean_ratio
from core.codec import decode
from core.domain.bench import BenchRecord, BenchRequest, BenchRun, LoadLevel


@dataclass(frozen=True, slots=True, kw_only=True)
class Interference:
    """A lane's TPOT together with others over its TPOT alone, at the same load."""

    lane: str
    level: LoadLevel
    tpot_ratio: Ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedUp:
    """The baseline's TPOT over a lane's, at the same load and both alone or both together."""

    lane: str
    together: tuple[str, ...]
    level: LoadLevel
    tpot_ratio: Ratio

    @property
    def is_together(self) -> bool:
        return len(self.together) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """Everything that is said about a run."""

    run: BenchRun
    plan: BenchPlan
    tool: Tool
    """Whose definitions latencies, speeds, goodput and ratios follow."""
    points: tuple[Point, ...]
    """Lanes alone first, in the plan's order; then lanes together."""
    speed_ups: tuple[SpeedUp, ...]
    interference: tuple[Interference, ...]
    saturation: Mapping[str, int]
    """The concurrency at which each lane is saturated, by a sweep."""

    @property
    def failed(self) -> int:
        """Requests that failed, and lanes that could not take part at all."""
        return sum(point.requests.failed for point in self.points) + sum(
            facts.error is not None for facts in self.run.lanes
        )


def plan_of(run: BenchRun) -> BenchPlan:
    """The plan that a run was made by; raises InputError if this version can't read it."""
    return decode(BenchPlan, run.plan)


def results(record: BenchRecord, tool: Tool = Tool.LMDYNO) -> BenchResult:
    """Everything about a run, with latencies as `tool` defines them."""
    plan = plan_of(record.run)
    groups = _grouped(record)
    facts = {lane_facts.lane.name: lane_facts for lane_facts in record.run.lanes}
    points = tuple(
        point_of(key, parts, facts[key.lane], plan, DEFINITIONS[tool]) for key, parts in groups.items()
    )
    # Only for what compares lanes: it applies the definition to every request once more.
    tpots = _tpots(groups, plan, DEFINITIONS[tool]) if len(plan.lanes) > 1 else {}
    return BenchResult(
        run=record.run,
        plan=plan,
        tool=tool,
        points=points,
        speed_ups=_speed_ups(tpots, plan),
        interference=_interference(tpots, plan),
        saturation=_saturation(points, plan),
    )


def _grouped(record: BenchRecord) -> dict[PointKey, list[Part]]:
    """The measured requests by point, each with one part a pass, in the order of the plan."""
    by_pass: dict[tuple[int, str], list[BenchRequest]] = {}
    for request in record.requests:
        if not request.warmup:
            by_pass.setdefault((request.pass_number, request.lane), []).append(request)
    groups: dict[PointKey, list[Part]] = {}
    for bench_pass in record.passes:
        for lane in bench_pass.lanes:
            if requests := by_pass.get((bench_pass.number, lane)):
                key = PointKey(lane, bench_pass.lanes, bench_pass.level)
                groups.setdefault(key, []).append(Part(bench_pass, tuple(requests)))
    order = [facts.lane.name for facts in record.run.lanes]
    return dict(sorted(groups.items(), key=lambda item: (len(item[0].together), order.index(item[0].lane))))


def _tpots(
    groups: Mapping[PointKey, Sequence[Part]], plan: BenchPlan, definition: Definition
) -> dict[PointKey, list[float]]:
    requested = plan.workload.output_tokens if plan.workload.fixed_output else None
    return {
        key: [
            tpot_s
            for part in parts
            for timing in part.timings
            if (tpot_s := definition.apply(timing, requested).tpot_s) is not None
        ]
        for key, parts in groups.items()
    }


def _interference(tpots: Mapping[PointKey, Sequence[float]], plan: BenchPlan) -> tuple[Interference, ...]:
    found = []
    for key, together in tpots.items():
        alone = tpots.get(replace(key, together=(key.lane,)))
        if key.is_together and alone is not None:
            ratio = mean_ratio(together, alone, seed=plan.seed)
            if ratio is not None:
                found.append(Interference(lane=key.lane, level=key.level, tpot_ratio=ratio))
    return tuple(found)


def _speed_ups(tpots: Mapping[PointKey, Sequence[float]], plan: BenchPlan) -> tuple[SpeedUp, ...]:
    first = plan.lanes[0].name
    speed_ups = []
    for key, own in tpots.items():
        together = key.together if key.is_together else (first,)
        baseline = tpots.get(PointKey(first, together, key.level))
        if key.lane != first and baseline is not None:
            ratio = mean_ratio(baseline, own, seed=plan.seed)
            if ratio is not None:
                speed_ups.append(
                    SpeedUp(lane=key.lane, together=key.together, level=key.level, tpot_ratio=ratio)
                )
    return tuple(speed_ups)


def _saturation(points: Sequence[Point], plan: BenchPlan) -> dict[str, int]:
    if plan.load.kind is not LoadKind.SWEEP:
        return {}
    speeds: dict[str, dict[int, float]] = {}
    for point in points:
        if not point.is_together and point.level.concurrency and point.system_tok_per_s:
            speeds.setdefault(point.lane, {})[point.level.concurrency] = point.system_tok_per_s
    found = {lane: saturation(by_level) for lane, by_level in speeds.items()}
    return {lane: concurrency for lane, concurrency in found.items() if concurrency is not None}
